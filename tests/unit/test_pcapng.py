"""pcapng files, read by tshark."""

from __future__ import annotations

import shutil
import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.utils import RawPcapNgReader

from testbed.errors import UsageError
from testbed.observe.capture import Frame
from testbed.observe.pcapng import write_pcapng

# with both addresses: scapy would ask the machine's network for the one that it was not given
PACKET = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src="10.0.0.1", dst="10.0.0.2")
SYN = bytes(PACKET / TCP(sport=7, dport=80, flags="S"))
FIN = bytes(PACKET / TCP(sport=7, dport=80, flags="FA") / b"odd")
FRAMES = [
    Frame(1_000_000_001, 0, "client", "router", SYN, len(SYN)),
    Frame(1_000_000_777, 1, "router", "server", FIN, 9000),
]
COMMENTS = {1: ["STATE FIN_WAIT1 → CLOSE", "Ü" * 40_000]}
LINKS = ("client–router", "router–server")
WALL_NS = 1_700_000_000 * 10**9


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed: apt-get install tshark")
def test_as_tshark_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "run.pcapng"
    write_pcapng(path, FRAMES, COMMENTS, WALL_NS, LINKS)
    fields = (
        "frame.time_epoch",
        "frame.interface_name",
        "tcp.flags",
        "frame.cap_len",
        "frame.len",
        "frame.comment",
    )
    done = subprocess.run(
        ["tshark", "-r", path, "-T", "fields", *(word for each in fields for word in ("-e", each))],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )
    one, two = (line.split("\t") for line in done.stdout.splitlines())
    assert one == ["1700000001.000000001", LINKS[0], "0x0002", "54", "54", ""]
    assert two[:5] == ["1700000001.000000777", LINKS[1], "0x0011", "57", "9000"]
    first, _, second = two[5].partition(",")
    assert first == COMMENTS[1][0]
    assert set(second) == {"Ü"}


def test_as_scapy_reads_it() -> None:
    stream: Any = BytesIO()
    write_pcapng(stream, FRAMES, COMMENTS, WALL_NS, LINKS)
    stream.seek(0)
    packets: Any = RawPcapNgReader(stream)
    found = [(data, meta.wirelen, meta.ifname) for data, meta in packets]
    assert found == [(each.data, each.length, LINKS[each.link].encode()) for each in FRAMES]


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ENOENT"):
        write_pcapng(tmp_path / "none" / "run.pcapng", [], {}, 0, ())
