"""Clients that are connected elsewhere than they asked for."""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest

from testbed.bpf.elf.loader import ObjectLoader
from testbed.errors import UsageError
from testbed.kernel.sockdiag import socket_cookie
from testbed.kmesh.mesh import Mesh
from testbed.kmesh.oracle.oracle import Oracle
from testbed.lab.family import ConnTuple
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair
from testbed.lab.redirect import Redirect, Redirected, Redirection

CONNECT = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
socket.socket(family).connect((sys.argv[1], 9))
"""


@pytest.fixture(scope="module")
def redirection(object_loader: ObjectLoader) -> Iterator[Redirection]:
    with Redirection(object_loader) as made:
        yield made


NOBODY = {4: ipaddress.ip_address("192.0.2.1"), 6: ipaddress.ip_address("2001:db8::1")}


def test_what_cannot_be_redirected(pair: Pair, redirection: Redirection) -> None:
    version = pair.family.version
    server, other = pair.server.address(version), pair.client.address(10 - version)
    for to, why in (
        (other, "one is an IPv4 address, the other an IPv6 one"),
        (NOBODY[version], f"no host of pair has {NOBODY[version]}"),
    ):
        with pytest.raises(UsageError, match=why), redirection.of(pair.lab, {(server, 9): (to, 9)}):
            pass
    with (
        redirection.of(pair.lab, {}),
        pytest.raises(UsageError, match=r"those of <Lab pair.* are, .*one lab's at a time"),
        redirection.of(pair.lab, {}),
    ):
        pass


def test_a_redirection_ends_with_its_block(pair: Pair, redirection: Redirection) -> None:
    """The client's host has the address: it is not redirected itself, the server is."""
    version = pair.family.version
    with pair.listen() as listener, pair.client.listen(pair.family.listener) as elsewhere:
        asked_for = pair.server.address(version), listener.getsockname()[1]
        to = pair.client.address(version), elsewhere.getsockname()[1]
        for host, expected in ((pair.client, asked_for), (pair.server, to)):
            with (
                redirection.of(pair.lab, {asked_for: to}) as redirected,
                host.socket(pair.family.client) as sock,
            ):
                connection = ConnTuple.of_client(host.connect(*asked_for, sock=sock))
                assert (connection.dst, connection.dport) == expected
                cookie = socket_cookie(sock)
            told = [(each.cookie, each.asked_for, each.to) for each in redirected]
            assert told == ([] if host is pair.client else [(cookie, asked_for, to)])
            for afterwards in (redirection.of(pair.lab, {}), nullcontext()):
                with afterwards, host.socket(pair.family.client) as sock:
                    connection = ConnTuple.of_client(host.connect(*asked_for, sock=sock))
                    assert (connection.dst, connection.dport) == asked_for


def test_a_process_has_asked_for_what_it_asked_for(pair: Pair, mesh: Mesh, redirection: Redirection) -> None:
    """Not by a socket of the test: still, its record has the address asked for, and so the oracle has."""
    version = pair.family.version
    mesh.manage(pair.client, pair.server)
    with pair.listen() as listener:
        asked_for = pair.server.address(version), 9
        to = pair.server.address(version), listener.getsockname()[1]
        with redirection.of(pair.lab, {asked_for: to}):
            pair.client.run([sys.executable, "-I", "-S", "-c", CONNECT, pair.family.as_client(asked_for[0])])
            listener.accept()[0].close()
    pair.lab.settle()
    assert {each.orig_dst for each in mesh.observed} == {asked_for, None}
    assert {(each.tuple.dst, each.tuple.dport) for each in mesh.observed} == {to}


class Meanwhile(Redirected):
    """Somebody who goes on while the oracle compares: whenever it asks who was redirected."""

    def __init__(self, go_on: Callable[[], None]) -> None:
        self._go_on = go_on
        self._is_open = False
        self._redirects = []

    def __iter__(self) -> Iterator[Redirect]:
        self._go_on()
        return iter(())


def test_what_changes_while_it_is_compared_is_compared_again(pair: Pair, mesh: Mesh, oracle: Oracle) -> None:
    """As a waypoint's connections do, whose process closes them when it gets to it."""
    mesh.manage(pair.client, pair.server)
    with pair.connect() as connection:
        pair.lab.chronicles.append(Meanwhile(connection.close))
        oracle.check()
        assert connection.client.fileno() == -1


def test_the_program_by_bcc(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is loaded where there is no clang; and what it says of a namespace is what the kernel says."""
    monkeypatch.setenv("PATH", "")
    with Redirection() as redirection:
        for version in (4, 6):
            with lab["client"].listen(socket.AF_INET6) as listener:
                to = lab["client"].address(version), listener.getsockname()[1]
                with redirection.of(lab, {(lab["server"].address(version), 9): to}):
                    lab["server"].connect(lab["server"].address(version), 9).close()
                    listener.accept()[0].close()
                    for host in lab.hosts.values():
                        assert redirection.netns_cookie(host) == host.netns_cookie
