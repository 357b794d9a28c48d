"""What of the catalogue an era has no use for: the table is made without it."""

from __future__ import annotations

from enum import Enum

from testbed.kmesh.catalogue.case import Config, Managed, Route
from testbed.kmesh.profile import Profile
from testbed.lab.family import Family

_TAKES: dict[str, frozenset[Enum]] = {
    "ipv6": frozenset({Family.V6}),
    "waypoint": frozenset({Route.WAYPOINT}),
    "node_ip": frozenset(each for each in Config if each.name.startswith("NODE")),
    "pod_gateway": frozenset(each for each in Config if each.name.startswith("GATEWAY")),
    "monitoring": frozenset({Config.UNMONITORED, Config.SWITCHED_OFF, Config.SWITCHED_ON}),
}
"""The values that need a thing of which a profile can say that its era lacks it."""


def lacking(profile: Profile) -> frozenset[Enum]:
    """The values of the catalogue's dimensions that an era does not have."""
    values = [_TAKES.get(what, frozenset()) for what in profile.lacks]
    if profile.managed.by == "presence":
        values.append(frozenset({Managed.STALE}))
    return frozenset[Enum]().union(*values)
