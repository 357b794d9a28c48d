"""A topology as a value: hosts, links, what is attached where. Read from YAML, or built in Python.

A `Topology` is whole: hosts with a count have become as many, each with its links, links have names,
and whoever was given no addresses has some. So hosts, links and addresses are those of the lab.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from testbed.topology.fields import (
    AddressField,
    Destination,
    DeviceName,
    Interface,
    LinkName,
    Name,
    ObjectPath,
    SysctlName,
    SysctlValue,
    Via,
    mistake,
    shown,
)
from testbed.topology.impair import ImpairSpec
from testbed.topology.shorthand import NothingIs, either

if TYPE_CHECKING:
    from testbed.topology.segments import Near

__all__ = [
    "EndSpec",
    "HostSpec",
    "ImpairSpec",
    "Interface",
    "LinkSpec",
    "Name",
    "ProgramsSpec",
    "Role",
    "Topology",
]

Role = Literal["client", "server", "waypoint", "node", "gateway", "router"]
FORWARDING_ROLES = frozenset({"node", "gateway", "router"})
LAB = "lab"
"""Where programs are attached that all hosts are to run."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HostSpec(_Model):
    """One host: a network namespace and a cgroup."""

    role: Role | None = Field(
        default=None, description="What it is in the lab; node, gateway and router forward."
    )
    gateway: Name | None = Field(
        default=None,
        description="The neighbour that its default routes go by; without one it has no default route.",
    )
    routes: dict[Destination, Via] = Field(
        default={},
        description="By network, or by name of a host for each of its addresses: the neighbour to go by,"
        " as its name or its address.",
    )
    forwarding: bool = Field(
        default=False,
        strict=True,
        description="Whether it forwards IPv4 and IPv6; left out: true for a node, gateway or router.",
    )
    bridges: dict[DeviceName, Annotated[tuple[AddressField, ...], NothingIs(())]] = Field(
        default={},
        description="By name: a bridge in this host, and its addresses; without any it is given some.",
    )
    sysctls: dict[SysctlName, SysctlValue] = Field(
        default={}, description="Sysctls of its namespace, net.… with dots, set when the lab comes up."
    )
    managed: bool = Field(
        default=False, strict=True, description="Whether who runs the lab enrols it with the programs."
    )
    cgroup: Name | None = Field(
        default=None, description="The name of its cgroup's directory; left out: that of the host."
    )
    count: int | None = Field(
        default=None,
        strict=True,
        ge=1,
        le=1000,
        description="As many hosts, NAME-1, NAME-2, …, each with a copy of each link that ends at NAME.",
    )


class EndSpec(_Model):
    """One end of a link, as a mapping or as the name of the host alone."""

    host: Name = Field(description="The host that this end is in.")
    addresses: tuple[AddressField, ...] = Field(
        default=(),
        description="IPv4 and IPv6 addresses with prefix length; left out: assigned; []: none.",
    )
    bridge: DeviceName | None = Field(
        default=None,
        description="The bridge of the host that this end is a port of; a port has no addresses.",
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: object) -> object:
        return {"host": data} if isinstance(data, str) else data

    __get_pydantic_json_schema__ = either({"type": "string", "description": "The name of the host."})


class LinkSpec(_Model):
    """A link, as a mapping or as the list of its two ends alone."""

    ends: tuple[EndSpec, EndSpec] = Field(description="The two ends.")
    name: LinkName | None = Field(default=None, description="What it is called; left out: HOST-HOST.")
    mtu: int | None = Field(
        default=None, strict=True, ge=68, le=65535, description="Bytes, of both ends; left out: 1500."
    )
    impair: ImpairSpec | None = Field(default=None, description="What the link does to packets, both ways.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: object) -> object:
        return {"ends": _two(data)} if isinstance(data, list | tuple) else _with_two(data)

    __get_pydantic_json_schema__ = either(
        {"type": "array", "minItems": 2, "maxItems": 2, "description": "The two ends."}, items="ends"
    )


def _two(ends: object) -> object:
    if isinstance(ends, list | tuple) and len(ends) != 2:
        raise mistake(f"expected two ends, got {len(ends)}")
    return ends


def _with_two(link: object) -> object:
    if isinstance(link, Mapping) and "ends" in link:
        _two(link["ends"])
    return link


class ProgramsSpec(_Model):
    """Programs, and where they are attached."""

    set: Literal["reference"] | None = Field(default=None, description="The programs in bpf/.")
    objects: tuple[ObjectPath, ...] = Field(
        default=(), description="ELF objects, by paths relative to the file, within its directory."
    )
    at: Name = Field(default=LAB, description="lab, for all hosts, or the name of one host.")

    @model_validator(mode="before")
    @classmethod
    def _one_of_both(cls, data: object) -> object:
        if isinstance(data, Mapping) and bool(data.get("set")) == bool(data.get("objects")):
            raise mistake(f"expected either set or objects, got {shown(dict(data))}")
        return data


class Topology(_Model):
    """Hosts by name, and links of two ends each. Interfaces are eth0, eth1, … in order of the links."""

    name: Name = Field(description="What labs of it are called.")
    hosts: dict[Name, Annotated[HostSpec, NothingIs({})]] = Field(description="The hosts, by name.")
    links: tuple[LinkSpec, ...] = Field(default=(), description="The links, two ends each.")
    programs: tuple[ProgramsSpec, ...] = Field(default=(), description="What is attached where.")

    _folder: Path | None = PrivateAttr(None)

    def __hash__(self) -> int:
        return hash((self.name, tuple(self.hosts)))

    def __eq__(self, other: object) -> bool:
        """Where it was read from does not matter."""
        if not isinstance(other, Topology):
            return NotImplemented
        return self is other or (self.name, self.hosts, self.links, self.programs) == (
            other.name,
            other.hosts,
            other.links,
            other.programs,
        )

    @model_validator(mode="wrap")
    @classmethod
    def _whole(cls, data: Any, handler: ModelWrapValidatorHandler[Topology]) -> Topology:
        from testbed.topology.whole import make_whole, mistakes_beside

        if isinstance(data, Topology):
            return data
        try:
            made = handler(data)
        except ValidationError as error:
            raise mistakes_beside(error, data) from error
        hosts, links, programs = make_whole(made.hosts, made.links, made.programs)
        # The fields as a whole: what was given is the beginning of it.
        made.__dict__.update(hosts=hosts, links=links, programs=programs)
        made.__pydantic_fields_set__.update(
            name for name, value in (("links", links), ("programs", programs)) if value
        )
        return made

    def ends(self) -> Iterator[EndSpec]:
        for link in self.links:
            yield from link.ends

    def neighbours(self, host: str) -> Mapping[str, EndSpec]:
        """By name: the hosts that one reaches without a router, and their ends there.

        Behind a bridge these are the bridge itself (an end that says so) and each of its ports' peers.
        """
        return self._near.of(host)

    @cached_property
    def _near(self) -> Near:
        from testbed.topology.segments import Near

        return Near(self.hosts, self.links)

    @property
    def folder(self) -> Path | None:
        """The directory of its file, which paths in it are relative to; None when it was built in Python."""
        return self._folder

    def object_files(self, programs: ProgramsSpec) -> Sequence[Path]:
        """Where the objects of an entry of ``programs`` are."""
        return [(self._folder or Path()) / path for path in programs.objects]

    def as_dict(self) -> dict[str, Any]:
        """JSON-like, in the form that a YAML file has and `Topology.model_validate` takes."""
        return self.model_dump(mode="json", exclude_unset=True)
