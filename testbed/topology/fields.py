"""The kinds of values in a topology: names, addresses, sysctls. Each says what it expects."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from testbed.topology.suggest import did_you_mean_sysctl

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAME = r"^[a-z][a-z0-9-]{0,30}$"
_LINK_NAME = r"^[a-z][a-z0-9-]{0,70}$"
_DEVICE = r"^[a-z][a-z0-9-]{0,14}$"
_SYSCTL = r"^net(\.[A-Za-z0-9_-]+)+$"
_TAKEN_DEVICES = re.compile(r"eth\d+|lo|all|default")  # ours, the kernel's, and directories of /proc/sys


def mistake(words: str) -> PydanticCustomError:
    """What a validator raises: the words reach a person as they are."""
    return PydanticCustomError("topology", "{words}", {"words": words})


def shown(value: object) -> str:
    """A value as a message quotes it: not longer than a line."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 50 else text[:49] + "…"


def _matching(pattern: str, what: str) -> Any:
    def check(value: object) -> object:
        if not isinstance(value, str) or not re.fullmatch(pattern.strip("^$"), value):
            hint = "" if isinstance(value, str) else "; YAML reads it as no text: put it in quotes"
            raise mistake(f"expected {what}, got {shown(value)}{hint}")
        return value

    return BeforeValidator(check)


_NAME_WORDS = "a name: a lower-case letter, then letters, digits and dashes, {} at most"
# A name is a cgroup directory and a word in commands: nothing in it may mean anything else.
Name = Annotated[str, Field(pattern=_NAME), _matching(_NAME, _NAME_WORDS.format(31))]
LinkName = Annotated[str, Field(pattern=_LINK_NAME), _matching(_LINK_NAME, _NAME_WORDS.format(71))]


def _own_device(value: str) -> str:
    if _TAKEN_DEVICES.fullmatch(value):
        raise mistake(f"{value} is taken: ends of links are eth0, eth1, …; take br0")
    return value


DeviceName = Annotated[
    str,
    Field(pattern=_DEVICE),
    _matching(_DEVICE, _NAME_WORDS.format(15)),
    AfterValidator(_own_device),
]

_ADDRESS_WORDS = "an address with prefix length such as 10.1.0.1/24 or fd01::1/64"


def _interface(value: object) -> object:
    if isinstance(value, ipaddress.IPv4Interface | ipaddress.IPv6Interface):
        interface: Interface = value
    else:
        if not isinstance(value, str) or "/" not in value:
            raise mistake(f"expected {_ADDRESS_WORDS}, got {shown(value)}")
        try:
            interface = ipaddress.ip_interface(value)
        except ValueError as error:
            raise mistake(f"expected {_ADDRESS_WORDS}, got {shown(value)}") from error
    why = _unfit(interface)
    if why:
        raise mistake(f"{interface} is {why}: no host can be reached at it")
    return interface


def _unfit(interface: Interface) -> str:
    ip, network = interface.ip, interface.network
    if ip.is_multicast or ip.is_unspecified or ip.is_loopback:
        return (
            "multicast" if ip.is_multicast else "unspecified" if ip.is_unspecified else "a loopback address"
        )
    if ip.version == 6:
        return "link-local" if ip.is_link_local else ""
    if network.prefixlen < 31 and ip == network.network_address:
        return "its network's own address"
    if network.prefixlen < 31 and ip == network.broadcast_address:
        return "its network's broadcast address"
    return ""


AddressField = Annotated[
    Interface,
    BeforeValidator(_interface),
    WithJsonSchema({"type": "string", "pattern": "^[0-9a-fA-F:.]+/[0-9]{1,3}$", "examples": ["10.1.0.1/24"]}),
]


def _sysctl_name(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(_SYSCTL.strip("^$"), value):
        return value
    hint = did_you_mean_sysctl(value) if isinstance(value, str) else ""
    raise mistake(f"expected a sysctl of the network, net.… with dots, got {shown(value)}{hint}")


def _sysctl_value(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise mistake(f"expected a number or a text, got {shown(value)}")
    text = str(value)
    if "\n" in text or "\0" in text or not text.strip():
        raise mistake(f"expected a number or one line of text, got {shown(value)}")
    return text


SysctlName = Annotated[str, Field(pattern=_SYSCTL), BeforeValidator(_sysctl_name)]
SysctlValue = Annotated[
    str, BeforeValidator(_sysctl_value), WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}]})
]


def _destination(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(_NAME.strip("^$"), value):
        return value
    network = _network(value)
    if network is None or str(network) != value:
        hint = f"; did you mean {network}?" if network is not None else ""
        raise mistake(f"expected a network such as 10.2.0.0/24 or a host's name, got {shown(value)}{hint}")
    return value


def _network(value: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The network that an address with prefix length is in."""
    try:
        return ipaddress.ip_network(value, strict=False) if isinstance(value, str) and "/" in value else None
    except ValueError:
        return None


def _via(value: object) -> object:
    if not isinstance(value, str) or not (re.fullmatch(_NAME.strip("^$"), value) or _is_address(value)):
        words = "expected the name of a neighbour, or its address without prefix length"
        raise mistake(f"{words}, got {shown(value)}")
    return value


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


Destination = Annotated[str, BeforeValidator(_destination)]
Via = Annotated[str, BeforeValidator(_via)]


def _object_path(value: object) -> object:
    if not isinstance(value, str) or not value or "\0" in value:
        raise mistake(f"expected the path of an object file, got {shown(value)}")
    return value


ObjectPath = Annotated[str, BeforeValidator(_object_path)]
