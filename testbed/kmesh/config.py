"""The program's settings: global variables, or fields of a map's only value, as the era has it."""

from __future__ import annotations

import ipaddress
from collections.abc import MutableMapping
from contextlib import suppress

from testbed.bpf.maps import Map
from testbed.bpf.program_set import ProgramSet
from testbed.kmesh.abi import Absent
from testbed.kmesh.oracle.ledger import Configured, Ledger
from testbed.kmesh.profile import Profile, Setting
from testbed.lab.family import Address

_NONE = bytes(16)
_FIRST = bytes(4)
LOG_LEVEL_INFO = 2
_NUMBERS: tuple[Setting, ...] = ("monitoring", "log_level")


class Config:
    """``node_ip`` and ``pod_gateway`` (None: not set), ``monitoring``, ``log_level``; read and written.

    `Absent` for what the era cannot be told.
    """

    def __init__(
        self,
        profile: Profile,
        variables: MutableMapping[str, bytes],
        config_map: Map | None,
        ledger: Ledger | None = None,
    ) -> None:
        self._profile = profile
        self._variables = variables
        self._map = config_map
        self._ledger = ledger or Ledger()

    def __repr__(self) -> str:
        names = [name for name in ("node_ip", "pod_gateway", "monitoring", "log_level") if self._has(name)]
        return f"<Config {' '.join(f'{name}={getattr(self, name)}' for name in names)}>"

    def _has(self, name: Setting) -> bool:
        place = self._profile.config.get(name)
        return place in self._variables if isinstance(place, str) else place is not None

    def reset(self) -> None:
        """What tests begin with: no exemption, monitoring on, log level INFO."""
        if self._has("node_ip"):
            self.node_ip = None
        if self._has("pod_gateway"):
            self.pod_gateway = None
        if self._has("monitoring"):
            self.monitoring = True
        if self._has("log_level"):
            self.log_level = LOG_LEVEL_INFO

    def _get(self, name: Setting) -> bytes:
        place = self._place(name)
        if isinstance(place, str):
            return self._variables[place]
        offset, size = place
        return self._value()[offset : offset + size]

    def _set(self, name: Setting, data: bytes) -> None:
        place = self._place(name)
        if isinstance(place, str):
            self._variables[place] = data
            return
        offset, size = place
        value = self._value()
        self._config_map().set(_FIRST, value[:offset] + data + value[offset + size :])

    def _place(self, name: Setting) -> str | tuple[int, int]:
        self._profile.require(name)
        place = self._profile.config.get(name)
        if place is None or (isinstance(place, str) and place not in self._variables):
            raise Absent(f"{self._profile.about}: nothing sets {name}")
        return place

    def _config_map(self) -> Map:
        if self._map is None:
            raise Absent(f"{self._profile.about}: the set has no configuration map")
        return self._map

    def _value(self) -> bytes:
        value = self._config_map().get(_FIRST)
        assert value is not None, "an array always has its entry 0"
        return value

    def _address(self, name: Setting) -> Address | None:
        value = self._get(name)
        if value == _NONE:
            return None
        # an IPv4 address sits in word 3, behind three zero words
        return ipaddress.ip_address(value if any(value[:12]) else value[12:])

    def _set_address(self, name: Setting, address: Address | None) -> None:
        with self._ledger.entry(Configured(name, address)):
            self._set(name, _NONE if address is None else address.packed.rjust(16, b"\0"))

    @property
    def node_ip(self) -> Address | None:
        return self._address("node_ip")

    @node_ip.setter
    def node_ip(self, address: Address | None) -> None:
        self._set_address("node_ip", address)

    @property
    def pod_gateway(self) -> Address | None:
        return self._address("pod_gateway")

    @pod_gateway.setter
    def pod_gateway(self, address: Address | None) -> None:
        self._set_address("pod_gateway", address)

    @property
    def monitoring(self) -> bool:
        return any(self._get("monitoring"))

    @monitoring.setter
    def monitoring(self, on: bool) -> None:
        with self._ledger.entry(Configured("monitoring", on)):
            self._set("monitoring", int(on).to_bytes(4, "little"))

    def number(self, name: Setting) -> int:
        """A setting as the program reads it."""
        return int.from_bytes(self._get(name), "little")

    @property
    def log_level(self) -> int:
        return self.number("log_level")

    @log_level.setter
    def log_level(self, level: int) -> None:
        self._set("log_level", level.to_bytes(4, "little"))


def settings_of(program_set: ProgramSet, profile: Profile) -> dict[str, int]:
    """``monitoring`` and ``log_level`` of a loaded set as numbers; those that it has."""
    name = profile.map_name("config")
    config = Config(profile, program_set.variables, program_set.maps.get(name) if name else None)
    found: dict[str, int] = {}
    for setting in _NUMBERS:
        with suppress(Absent):
            found[setting] = config.number(setting)
    return found
