"""The program's configuration: global variables that user space sets."""

from __future__ import annotations

import ipaddress
from collections.abc import MutableMapping

from testbed.lab.family import Address

_NONE = bytes(16)
LOG_LEVEL_INFO = 2


class Config:
    """``node_ip`` and ``pod_gateway`` (None: not set), ``monitoring``, ``log_level``; read and written."""

    def __init__(self, variables: MutableMapping[str, bytes]) -> None:
        self._variables = variables

    def __repr__(self) -> str:
        return f"<Config node_ip={self.node_ip} pod_gateway={self.pod_gateway} monitoring={self.monitoring}>"

    def reset(self) -> None:
        """The values of a freshly loaded program: no exemption, monitoring on, log level INFO."""
        self.node_ip = None
        self.pod_gateway = None
        self.monitoring = True
        self.log_level = LOG_LEVEL_INFO

    def _address(self, name: str) -> Address | None:
        value = self._variables[name]
        if value == _NONE:
            return None
        # an IPv4 address sits in word 3, behind three zero words
        return ipaddress.ip_address(value if any(value[:12]) else value[12:])

    def _set_address(self, name: str, address: Address | None) -> None:
        self._variables[name] = _NONE if address is None else address.packed.rjust(16, b"\0")

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
        return any(self._variables["enable_monitoring"])

    @monitoring.setter
    def monitoring(self, on: bool) -> None:
        self._variables["enable_monitoring"] = int(on).to_bytes(4, "little")

    @property
    def log_level(self) -> int:
        return int.from_bytes(self._variables["bpf_log_level"], "little")

    @log_level.setter
    def log_level(self, level: int) -> None:
        self._variables["bpf_log_level"] = level.to_bytes(4, "little")
