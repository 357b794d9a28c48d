"""netem on a link, where the kernel has it; where not, the error says what to do."""

from __future__ import annotations

import socket
import time

import pytest

from testbed.errors import MachineError, UsageError
from testbed.kernel.counters import grown
from testbed.kernel.netem import Netem
from testbed.lab.host import Host
from testbed.lab.impair import clear, impair, impair_links
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair
from testbed.topology.impair import ImpairSpec

MS = 1_000_000


def refusal(lab: Lab) -> MachineError | None:
    """Why there is no netem; None where there is."""
    try:
        impair(lab, "client", "server", Netem(delay_ns=MS))
    except MachineError as error:
        return error
    return None


def qdiscs(host: Host) -> str:
    return host.run(["tc", "qdisc", "show", "dev", "eth0"]).stdout


@pytest.fixture
def netem(lab: Lab) -> None:
    """Skips where the kernel was built without it, whatever its version."""
    if (error := refusal(lab)) is not None:
        pytest.skip(str(error))
    clear(lab, "client", "server")


def connect_s(pair: Pair) -> float:
    with pair.listen() as listener, pair.client_socket() as sock:
        start = time.monotonic()
        pair.client.connect(pair.server.address(pair.family.version), listener.getsockname()[1], sock=sock)
        return time.monotonic() - start


def test_it_is_there_or_the_error_says_what_to_do(lab: Lab) -> None:
    error = refusal(lab)
    assert ("netem" in qdiscs(lab["client"])) is (error is None)
    if error is not None:
        assert error.why == "this kernel has no netem (CONFIG_NET_SCH_NETEM)"
        assert "gates need none" in error.fix
    clear(lab, "client", "server")
    assert "netem" not in qdiscs(lab["client"])


def test_a_link_is_named_by_its_two_hosts(lab: Lab) -> None:
    with pytest.raises(UsageError, match="no link joins them"):
        impair(lab, "client", "nobody", Netem(delay_ns=MS))


@pytest.mark.usefixtures("netem")
@pytest.mark.families("v4", "v6")
class TestWithNetem:
    def test_delay(self, pair: Pair) -> None:
        impair(pair.lab, "client", "server", Netem(delay_ns=10 * MS))
        assert connect_s(pair) >= 0.02
        impair(pair.lab, "client", "server", Netem(delay_ns=40 * MS), both=False)
        assert connect_s(pair) >= 0.05
        clear(pair.lab, "client", "server")
        assert "netem" not in qdiscs(pair.client)

    def test_loss(self, pair: Pair) -> None:
        with pair.connect() as connection:
            before = pair.client.counters()
            impair(pair.lab, "server", "client", Netem(loss=100), both=False)
            connection.client.sendall(b"x")
            assert connection.server.recv(1) == b"x"
            connection.server.sendall(b"lost")
            connection.client.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.client.recv(1)
            assert "TcpInSegs" not in grown(before, pair.client.counters())

    def test_duplicates(self, pair: Pair) -> None:
        with pair.connect() as connection:
            impair(pair.lab, "client", "server", Netem(duplicate=100), both=False)
            before = pair.server.counters()
            connection.client.sendall(b"once")
            assert connection.server.recv(100) == b"once"
            pair.lab.settle()
            assert grown(before, pair.server.counters())["TcpExtTCPDSACKOldSent"] == 1

    def test_rate(self, pair: Pair) -> None:
        """125 KB take 100 ms at 10 Mbit/s."""
        with pair.connect() as connection:
            impair(pair.lab, "client", "server", Netem(rate_bits=10_000_000), both=False)
            start = time.monotonic()
            connection.client.sendall(bytes(125_000))
            connection.client.shutdown(socket.SHUT_WR)
            connection.server.settimeout(30)
            assert sum(map(len, iter(lambda: connection.server.recv(1 << 20), b""))) == 125_000
            assert time.monotonic() - start >= 0.09

    def test_what_the_kernel_was_told(self, pair: Pair) -> None:
        spec = ImpairSpec(
            delay="20ms", jitter="2.5ms", loss="1.5%", reorder="25%", duplicate="3%", rate="10mbit"
        )
        impair(pair.lab, "client", "server", spec.netem())
        for host in (pair.client, pair.server):
            shown = qdiscs(host)
            for words in (
                "delay 20ms  2.5ms",
                "loss 1.5%",
                "reorder 25%",
                "gap 1",
                "duplicate 3%",
                "rate 10Mbit",
            ):
                assert words in shown
        impair(pair.lab, "client", "server", Netem())
        assert "netem" not in qdiscs(pair.client)

    def test_what_a_topology_says(self, pair: Pair) -> None:
        links = [
            link.model_copy(update={"impair": ImpairSpec(delay="10ms")}) for link in pair.lab.topology.links
        ]
        pair.lab.topology = pair.lab.topology.model_copy(update={"links": tuple(links)})
        impair_links(pair.lab)
        assert connect_s(pair) >= 0.02
