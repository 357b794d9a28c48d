"""A test file as people write them: gates, commands, impairments, other owners; the last one fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import pytest

from testbed.bpf.elf.loader import ObjectLoader
from testbed.errors import MachineError
from testbed.gates import Data, Link
from testbed.kernel.netem import Netem
from testbed.kmesh.mesh import Mesh
from testbed.lab.impair import impair
from testbed.lab.owner import owned_by_a_process
from testbed.lab.pair import Pair
from testbed.lab.redirect import Redirection


@pytest.fixture(scope="module")
def redirection(object_loader: ObjectLoader) -> Iterator[Redirection]:
    with Redirection(object_loader) as made:
        yield made


def test_commands_and_owners(pair: Pair) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    words = ["sleep", "1000"]
    try:
        with pair.client.spawn(words, stdin=nowhere, stdout=nowhere, stderr=nowhere) as command:
            assert command.pid
        assert pair.server.run(["true"]).code == 0
        with pair.listen() as listener, owned_by_a_process(pair.server, listener):
            pass
    finally:
        os.close(nowhere)


def test_links(pair: Pair, link: Link, mesh: Mesh, redirection: Redirection) -> None:
    mesh.manage(pair.client, pair.server)
    with suppress(MachineError):  # where the kernel has no netem
        impair(pair.lab, "client", "server", Netem(delay_ns=1_000_000))
    address = pair.server.address(4)
    redirected = redirection.of(pair.lab, {(address, 9): (address, 10)})
    with redirected, pair.connect() as connection, link.hold(Data) as held:
        connection.client.sendall(b"data")
        held.seen()
    assert not mesh.observed, "it fails, so that its story is told"
