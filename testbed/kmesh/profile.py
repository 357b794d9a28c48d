"""ABI profiles: one file an era, which says what the program set's interface was then.

The files are in ``testbed/kmesh/profiles``; people can write their own. All sizes and offsets are in
bytes, numbers little-endian, addresses in network order.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from testbed.errors import UsageError
from testbed.kmesh.abi import HOST_ORDER, NETWORK_ORDER, Absent, PortOrder
from testbed.lab.documents import read_yaml
from testbed.visible import dotted_place, one_line

PROFILES = Path(__file__).resolve().parent / "profiles"
Role = Literal[
    "managed",
    "storage",
    "sockhash",
    "auth_requests",
    "auth_results",
    "observe",
    "log",
    "config",
    "access_log",
    "metrics",
    "metric_notify",
    "original_destinations",
]
_NEEDED: dict[str, tuple[Role, set[str]]] = {
    "auth_request": ("auth_requests", {"type", "tuple"}),
    "observe": ("observe", {"type", "tuple", "direction", "state", "conn_success"}),
    "storage": ("storage", set()),
    "access_log": (
        "access_log",
        {"tuple", "direction", "conn_success", "sent_bytes", "received_bytes", "duration"},
    ),
}
Setting = Literal["node_ip", "pod_gateway", "monitoring", "log_level", "authz_offload"]
Lack = Literal[
    "ipv6",
    "observe",
    "log",
    "storage",
    "waypoint",
    "node_ip",
    "pod_gateway",
    "monitoring",
    "log_level",
    "orig_dst",
    "start_ns",
    "last_report_ns",
]
Order = Annotated[
    PortOrder,
    BeforeValidator(lambda word: {"host": HOST_ORDER, "network": NETWORK_ORDER}.get(str(word), word)),
]
Port = Annotated[int, Field(ge=1, le=65535)]
Place = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(gt=0)]]
"""(offset, size)"""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MapSpec(_Part):
    """A map by its name; sizes where they tell the era (rings have none).

    ``entries`` is its max_entries where users rely on it (of a ring: bytes).
    """

    name: str
    key: int | None = None
    value: int | None = None
    entries: int | None = None


class Control(_Part):
    """Where a host connects to in order to be managed, or no longer."""

    ipv4: ipaddress.IPv4Address
    ipv6: ipaddress.IPv6Address | None = None
    enrol_port: Port = 929
    remove_port: Port = 930
    other_ports: tuple[Port, ...] = ()
    """Further ports of that address that do something."""


class Managed(_Part):
    """``by`` presence in the map, or presence and the value 0. ``cookies``: the connect hook goes by
    the network namespace's cookie, kept in the same map.
    """

    by: Literal["presence", "value"] = "value"
    cookies: bool = False


class Ports(_Part):
    """Byte order of the ports, by where they stand."""

    auth: Order
    observe: Order = HOST_ORDER
    sockhash: Order = NETWORK_ORDER
    storage: Order = NETWORK_ORDER


class RecordSpec(_Part):
    """A record or value: its size, where its fields are, and what its C struct may be called."""

    size: Annotated[int, Field(gt=0)]
    structs: tuple[str, ...] = ()
    fields: Mapping[str, Place]

    @model_validator(mode="after")
    def _within(self) -> RecordSpec:
        for name, (offset, size) in self.fields.items():
            if offset + size > self.size:
                raise ValueError(f"field {name} ends at byte {offset + size} of {self.size}")
        return self


class Records(_Part):
    auth_request: RecordSpec
    storage: RecordSpec | None = None
    observe: RecordSpec | None = None
    access_log: RecordSpec | None = None

    @property
    def structs(self) -> tuple[str, ...]:
        """What the C structs of ring records may be called."""
        specs = (self.auth_request, self.observe, self.access_log)
        return tuple(name for spec in specs if spec is not None for name in spec.structs)


class Routes(_Part):
    """Maps that a connect hook looks destinations up in; filled so that each host is its own backend."""

    frontend: MapSpec
    backend: MapSpec


class Tells(_Part):
    """Maps or programs whose presence or absence tells eras apart that are otherwise alike."""

    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


class Profile(_Part):
    """One era. ``maps`` are those that its sockops object always has, by role; ``optional_maps`` others.

    ``config`` says where the settings are: a variable's name, or offset and size in the config map's
    value, ``defaults`` what they are in a set that has just been loaded. ``lacks`` are things that
    other eras have, with the reason in a person's words.
    """

    era: str
    about: str
    order: int = 100
    programs: Mapping[Literal["sockops", "connect4", "connect6", "sk_msg"], str]
    control: Control
    managed: Managed = Managed()
    ports: Ports
    maps: Mapping[Role, MapSpec]
    optional_maps: Mapping[Role, MapSpec] = {}
    tells: Tells = Tells()
    routes: Routes | None = None
    records: Records
    config: Mapping[Setting, str | Place] = {}
    defaults: Mapping[Setting, int] = {}
    lacks: Mapping[Lack, str] = {}

    @model_validator(mode="after")
    def _whole(self) -> Profile:
        if "sockops" not in self.programs:
            raise ValueError("programs: it names no sockops program")
        roles = {**self.maps, **self.optional_maps}
        for record, (role, needed) in _NEEDED.items():
            spec: RecordSpec | None = getattr(self.records, record)
            if spec is None and role in roles:
                raise ValueError(f"records.{record}: it is missing, and maps has {role}")
            if spec is not None and (missing := needed - spec.fields.keys()):
                raise ValueError(f"records.{record}.fields: {', '.join(sorted(missing))} are missing")
        for name, place in self.config.items():
            if not isinstance(place, str) and "config" not in roles:
                raise ValueError(f"config.{name}: it is a place in a map, and maps has no config")
        return self

    def map_name(self, role: Role) -> str | None:
        """What the map of a role is called, None where the era has none."""
        spec = self.maps.get(role) or self.optional_maps.get(role)
        return spec.name if spec else None

    def require(self, what: str) -> None:
        """`Absent` where the era lacks it."""
        reasons: Mapping[str, str] = {str(name): reason for name, reason in self.lacks.items()}
        if what in reasons:
            raise Absent(f"{self.about}: {reasons[what]}")


def _known() -> dict[str, Path]:
    return {path.stem: path for path in PROFILES.glob("*.yaml")}


@cache
def builtin_profiles() -> tuple[Profile, ...]:
    """The profiles that come with the testbed, oldest first."""
    return tuple(sorted((read_profile(path) for path in _known().values()), key=lambda each: each.order))


def load_profile(name_or_path: str | Path) -> Profile:
    """A profile by its era (``main``, ``v1.0.0``), or from a file. `UsageError` names what is wrong."""
    known = _known()
    if str(name_or_path) in known:
        return read_profile(known[str(name_or_path)])
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"} or os.path.isfile(path):  # noqa: PTH113 (is_file raises, for a long name)
        return read_profile(path)
    raise UsageError(
        f"find the ABI profile {name_or_path}",
        "it is neither an era nor a file",
        f"eras: {', '.join(profile.era for profile in builtin_profiles())}",
    )


def read_profile(path: Path) -> Profile:
    """Reads a profile from a file. `UsageError` names the line or the field that is wrong."""
    what = f"read the ABI profile {path}"
    try:
        data = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(what, error.strerror or str(error)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(what, " ".join(str(error).split())) from error
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        first, *others = error.errors()
        where = dotted_place(first["loc"])
        more = f" (and {len(others)} more)" if others else ""
        why = first["msg"].removeprefix("Value error, ")
        why = f"{where}: {why[0].lower()}{why[1:]}" if where else why
        example = f"{PROFILES / 'main.yaml'} is an example"
        raise UsageError(what, one_line(f"{why}{more}"), example) from error
