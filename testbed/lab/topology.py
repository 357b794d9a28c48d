"""What a lab consists of, as data: hosts, links, addresses. Read from YAML, or built in Python."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from testbed.data import data_dir
from testbed.errors import UsageError
from testbed.lab.documents import read_yaml
from testbed.lab.wiring import Wiring, wire

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
# A name is a cgroup directory and a word in commands: nothing in it may mean anything else.
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HostSpec(_Model):
    """One host. ``gateway`` names the neighbour that its default routes go by."""

    gateway: Name | None = None


class EndSpec(_Model):
    """One end of a link: the host that it is in, and its addresses with prefix length."""

    host: Name
    addresses: tuple[Interface, ...]


class Topology(_Model):
    """Hosts by name, and links of two ends each. Interfaces are eth0, eth1, … in order of the links."""

    name: Name
    hosts: dict[Name, HostSpec]
    links: tuple[tuple[EndSpec, EndSpec], ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        seen: dict[object, str] = {}
        for end in self.ends():
            if end.host not in self.hosts:
                raise ValueError(
                    f"a link ends at {end.host}, which is no host (hosts: {', '.join(self.hosts)})"
                )
            for interface in end.addresses:
                if interface.ip in seen:
                    raise ValueError(f"{interface.ip} is given twice: to {seen[interface.ip]} and {end.host}")
                seen[interface.ip] = end.host
        for name, host in self.hosts.items():
            if host.gateway is not None and host.gateway not in self.neighbours(name):
                raise ValueError(f"{name} has the gateway {host.gateway}, to which no link of it leads")
        return self

    @cached_property
    def wiring(self) -> Wiring:
        """What its labs are made by."""
        return wire(self)

    def ends(self) -> Iterator[EndSpec]:
        for link in self.links:
            yield from link

    def neighbours(self, host: str) -> dict[str, EndSpec]:
        """The other end of each of a host's links, by the name of the host there."""
        pairs = [(a, b) for one, other in self.links for a, b in ((one, other), (other, one))]
        return {theirs.host: theirs for ours, theirs in pairs if ours.host == host}


def load_topology(name_or_path: str | Path) -> Topology:
    """Reads a shipped topology by its name, or a file by its path. `UsageError` says what is wrong."""
    path = Path(name_or_path)
    shipped = data_dir("topologies")
    if path.suffix not in {".yaml", ".yml"}:
        path = shipped / f"{name_or_path}.yaml"
    what = f"read the topology {path}"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        names = ", ".join(sorted(file.stem for file in shipped.glob("*.yaml")))
        raise UsageError(what, "there is no such file", f"shipped ones: {names}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(what, str(error)) from error
    return _parse(what, text)


@lru_cache(maxsize=64)
def _parse(what: str, text: str) -> Topology:
    """Once for each text: it takes as long as a lab takes to come up."""
    try:
        content = read_yaml(text)
    except yaml.YAMLError as error:
        raise UsageError(what, " ".join(str(error).split()), "mend the YAML there") from error
    try:
        return Topology.model_validate(content)
    except ValidationError as error:
        raise UsageError(
            what,
            f"{error.error_count()} mistakes" if error.error_count() > 1 else "a mistake",
            "docs/topologies.md lists every field",
            _mistakes(error),
        ) from error


def _mistakes(error: ValidationError) -> str:
    return "\n".join(
        f"{'.'.join(map(str, mistake['loc'])) or 'the whole'}: {mistake['msg']}" for mistake in error.errors()
    )
