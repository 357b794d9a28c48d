"""Topologies as values: what is shipped, what is filled in, what does not fit together."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from pydantic import ValidationError

from testbed.topology.load import load_topology, shipped
from testbed.topology.model import EndSpec, HostSpec, LinkSpec, Topology

PORT = {"host": "node", "bridge": "br0"}
BRIDGED: dict[str, Any] = {
    "name": "x",
    "hosts": {"node": {"role": "node", "bridges": {"br0": None}}, "pod": {"count": 3, "gateway": "node"}},
    "links": [["pod", PORT]],
}


def words_of(error: ValidationError) -> str:
    return "\n".join(f"{'.'.join(map(str, line['loc']))}: {line['msg']}" for line in error.errors())


def addresses_of(topology: Topology) -> list[str]:
    of_bridges = [
        address for host in topology.hosts.values() for each in host.bridges.values() for address in each
    ]
    return [str(each) for each in of_bridges + [each for end in topology.ends() for each in end.addresses]]


def test_the_pair() -> None:
    pair = load_topology("pair")
    assert list(pair.hosts) == ["client", "server"]
    assert set(pair.neighbours("client")) == {"server"}


@pytest.mark.parametrize("name", shipped())
def test_what_is_whole_reads_the_same_again(name: str) -> None:
    topology = load_topology(name)
    assert Topology.model_validate(topology.as_dict()) == topology


def test_built_in_python_and_as_data_are_the_same() -> None:
    built = Topology(
        name="x",
        hosts={"a": HostSpec(gateway="b"), "b": HostSpec()},
        links=(LinkSpec(ends=(EndSpec(host="a"), EndSpec(host="b"))),),
    )
    data = {"name": "x", "hosts": {"a": {"gateway": "b"}, "b": None}, "links": [["a", "b"]]}
    assert built == Topology.model_validate(data)
    assert built.links[0].name == "a-b"


def test_a_count_makes_hosts_and_their_links() -> None:
    topology = Topology.model_validate(BRIDGED)
    assert list(topology.hosts) == ["node", "pod-1", "pod-2", "pod-3"]
    assert [link.name for link in topology.links] == ["pod-1-node", "pod-2-node", "pod-3-node"]
    assert set(topology.neighbours("pod-2")) == {"node", "pod-1", "pod-3"}
    assert topology.neighbours("pod-1")["node"].bridge == "br0"


def test_equal_counts_pair_up() -> None:
    topology = load_topology("scale", {"client": 500, "server": 500})
    assert len(topology.hosts) == 1000
    assert topology.hosts["client-77"].gateway == "server-77"
    assert set(topology.neighbours("client-77")) == {"server-77"}
    assert len(set(addresses_of(topology))) == 2000


def test_addresses_are_assigned_clear_of_what_is_given() -> None:
    topology = Topology.model_validate(
        {
            "name": "x",
            "hosts": {"a": {}, "b": {}, "c": {}},
            "links": [
                ["a", "b"],
                [{"host": "b", "addresses": ["10.64.0.9/23", "fd64::1/64"]}, "c"],
                [{"host": "a", "addresses": ["10.9.0.1/30"]}, {"host": "c", "addresses": []}],
            ],
        }
    )
    assert addresses_of(topology) == [
        *("10.64.2.1/24", "fd64:0:0:1::1/64", "10.64.2.2/24", "fd64:0:0:1::2/64"),
        *("10.64.0.9/23", "fd64::1/64", "10.64.0.1/23", "fd64::2/64"),
        "10.9.0.1/30",
    ]


def test_a_bridge_and_all_its_ports_are_in_one_network() -> None:
    topology = Topology.model_validate({**BRIDGED, "hosts": {**BRIDGED["hosts"], "pod": {"count": 300}}})
    networks = {ipaddress.ip_interface(address).network for address in addresses_of(topology)}
    assert sorted(map(str, networks)) == ["10.64.0.0/23", "fd64::/64"]
    assert len(set(addresses_of(topology))) == 602


@pytest.mark.parametrize(
    ("host", "forwards"),
    [
        ({"role": "router"}, True),
        ({"role": "node"}, True),
        ({"role": "gateway"}, True),
        ({"role": "waypoint"}, False),
        ({"role": "router", "forwarding": False}, False),
        ({"forwarding": True}, True),
    ],
)
def test_who_forwards(host: dict[str, Any], forwards: bool) -> None:
    topology = Topology.model_validate({"name": "x", "hosts": {"a": host}})
    assert topology.hosts["a"].forwarding is forwards
    assert Topology.model_validate(topology.as_dict()) == topology


def of(hosts: dict[str, Any], *links: Any, **more: Any) -> dict[str, Any]:
    return {"name": "x", "hosts": hosts, "links": list(links), **more}


def at(host: str, *addresses: str) -> dict[str, Any]:
    return {"host": host, "addresses": list(addresses)}


BRIDGES: dict[str, Any] = {"a": {"bridges": {"br0": []}}, "b": {"bridges": {"br0": []}}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (of({"a": {}}, ["a", "b"]), "links.0.ends.1.host: there is no host b"),
        (of({"client": {}, "b": {}}, ["cleint", "b"]), "did you mean client?"),
        (of({"a": {}}, ["a", "a"]), "both ends are in a"),
        (of({"a": {"gateway": "b"}, "b": {}}), "hosts.a.gateway: no link leads from a to b"),
        (of({"a": {"gateway": "a"}}), "cannot be its own neighbour"),
        (of({"a": {"gateway": "c"}, "b": {}}, ["a", "b"]), "there is no host c"),
        (
            of({"a": {}, "b": {}}, [at("a", "10.0.0.1/24"), at("b", "10.0.0.1/24")]),
            "links.0.ends.1.addresses.0: 10.0.0.1 is given twice: to a and b",
        ),
        (
            of({"a": {}, "b": {}}, [at("a", "10.0.0.1/24"), at("b", "10.0.1.1/24")]),
            "no IPv4 address of b is in a network of a",
        ),
        (
            of(
                {"a": {}, "b": {}},
                [at("a", "10.0.0.1/24"), at("b", "10.0.0.2/24")],
                [at("a", "10.0.0.3/24"), at("b", "10.0.0.4/24")],
            ),
            "a is on 10.0.0.0/24 twice",
        ),
        (of({"a": {}, "b": {}}, [at("a", "10.0.0.1/31"), at("b", "10.0.0.0/31")], ["a", "b"]), ""),
        (
            of({"a": {"count": 3}, "b": {}}, [at("b", "10.0.0.1/30"), "a"]),
            "10.0.0.1 would be of b and b: leave a count's addresses out",
        ),
        (of(BRIDGES, ["a", {"host": "b", "bridge": "br1"}]), "b has no bridge br1; did you mean br0?"),
        (
            of({**BRIDGES, "c": {}}, ["c", {"host": "b", "bridge": "br0", "addresses": ["10.0.0.1/24"]}]),
            "the port of a bridge has no addresses",
        ),
        (
            of(BRIDGES, *[[{"host": "a", "bridge": "br0"}, {"host": "b", "bridge": "br0"}]] * 2),
            "links.1: it closes a loop of bridges",
        ),
        (of({"a": {"bridges": {"eth0": []}}}), "eth0 is taken"),
        (of({"a": {"routes": {"10.1.0.0/16": "b"}}, "b": {}}), "no link leads from a to b"),
        (of({"a": {"routes": {"10.1.0.0/16": "10.9.9.9"}}, "b": {}}, ["a", "b"]), "has the address 10.9.9.9"),
        (of({"a": {"routes": {"10.1.0.3/16": "b"}}, "b": {}}, ["a", "b"]), "did you mean 10.1.0.0/16?"),
        (
            of(
                {"a": {"routes": {"fd01::/64": "b"}}, "b": {}},
                [at("a", "10.0.0.1/24"), at("b", "10.0.0.2/24")],
            ),
            "fd01::/64 is IPv6, and b has no such address",
        ),
        (of({"a": {"routes": {"c": "b"}}, "b": {}}, ["a", "b"]), "there is no host c"),
        (of({"a": {}, "b": {}}, {"ends": ["a", "b"], "mtu": 1000}), "links.0.mtu: IPv6 needs 1280 bytes"),
        (of({"a": {"count": 2}, "b": {"count": 3}}, ["a", "b"]), "both must be as many"),
        (of({"a": {"gateway": "b"}, "b": {"count": 3}}, ["a", "b"]), "b is 3 hosts: name one, b-1 … b-3"),
        (of({"a": {"count": 2}, "a-1": {}}), "there are two hosts a-1"),
        (of({"a" * 30: {"count": 2}}), "is longer than 31 characters"),
        (of({chr(97 + n): {"count": 1000} for n in range(3)}), "more than a lab can have"),
        (of({"a": {"count": 0}}), "hosts.a.count"),
        (of({"lab": {}}), "lab stands for all hosts"),
        (of({"a": {"cgroup": "b"}, "b": {}}), "would have one cgroup, b"),
        (of({"a": {}, "b": {}}, *[{"ends": ["a", "b"], "name": "l"}] * 2), "two links are called l"),
        (of({"a": {}}, programs=[{"set": "reference", "at": "b"}]), "programs.0.at: there is no host b"),
        (of({"a": {}}, programs=[{"at": "a"}]), "expected either set or objects"),
        (of({"a": {"sysctls": {"kernel.panic": 1}}}), "expected a sysctl of the network"),
        (of({"a": {"sysctls": {"net.../x": 1}}}), "expected a sysctl of the network"),
        (of({"a": {"sysctls": {"net.core.somaxconn": True}}}), "expected a number or a text, got True"),
        (of({"../a": {}}), "expected a name: a lower-case letter"),
        (of({"a": {}, "b": {}}, [at("a", "10.0.0.0/24"), "b"]), "is its network's own address"),
        (of({"a": {}, "b": {}}, [at("a", "fe80::1/64"), "b"]), "is link-local"),
    ],
)
def test_what_does_not_fit_is_named(data: dict[str, Any], message: str) -> None:
    if not message:
        Topology.model_validate(data)
        return
    with pytest.raises(ValidationError) as caught:
        Topology.model_validate(data)
    assert message in words_of(caught.value)


def test_one_mistake_does_not_hide_another() -> None:
    hosts = {"a": {"gatway": "b", "gateway": "c"}, "b": {"role": "rooter"}}
    with pytest.raises(ValidationError) as caught:
        Topology.model_validate(of(hosts, ["a", "d"], programs=[{"set": "reference", "at": "e"}]))
    assert [".".join(map(str, line["loc"])) for line in caught.value.errors()] == [
        "hosts.a.gatway",
        "hosts.b.role",
        "programs.0.at",
        "links.0.ends.1.host",
    ]
