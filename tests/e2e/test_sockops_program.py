"""Somebody else's sockops program, with no role of the contract: loaded, attached, tapped, tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.bpf.elf.clang import compile_object
from tests.e2e.test_plugin import pytest_in

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct ends { __u32 local_port, remote_port; };
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct ends);
	__type(value, __u64);
} established SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ports SEC(".maps");
__u32 only_port;
__u64 seen;

SEC("sockops")
int watch(struct bpf_sock_ops *skops)
{
	struct ends key = { skops->local_port, __builtin_bswap32(skops->remote_port) };
	__u64 one = 1;

	if (skops->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		return 1;
	seen++;
	if (only_port && key.remote_port != only_port)
		return 1;
	bpf_map_update_elem(&established, &key, &one, BPF_ANY);
	bpf_ringbuf_output(&ports, &key, sizeof(key), 0);
	return 1;
}

SEC("xdp")
int drop(struct xdp_md *ctx)
{
	return only_port == 1 ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "GPL";
"""
TEN_LINES = """
def test_ports(pair, tap, sockops_program):
    mine = sockops_program("x.o")
    with pair.connect() as conn:
        key = {"local_port": conn.tuple.sport, "remote_port": conn.tuple.dport}
        assert mine.maps["established"][key] == 1
        assert mine.globals["seen"] == 1
        assert mine.records("ports") == [conn.tuple.sport.to_bytes(4, "little")
                                         + conn.tuple.dport.to_bytes(4, "little")]
        assert mine.records("ports", "ends") == []
        assert [each.host for each in tap if each.op.name == "ACTIVE_ESTABLISHED"] == ["client"]
    mine.globals["only_port"] = 9
    with pair.connect():
        assert len(mine.maps["established"]) == 1
        assert mine.globals["seen"] == 2
    mine.globals["only_port"] = 0
    with pair.connect() as conn:
        assert mine.records("ports", "ends") == [
            {"local_port": conn.tuple.sport, "remote_port": conn.tuple.dport}
        ]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "x.c").write_text(SOURCE, encoding="utf-8")
    compile_object(tmp_path / "x.c", [], tmp_path / "x.o")
    return tmp_path


@pytest.mark.long
def test_ten_lines_beside_the_object(folder: Path) -> None:
    done = pytest_in(folder, TEN_LINES)
    assert "4 passed" in done.stdout, done.stdout


@pytest.mark.long
def test_a_program_of_an_interface_is_attached_to_a_host(folder: Path) -> None:
    text = """
import pytest

def test_drop(pair, sockops_program):
    mine = sockops_program("x.o")
    mine.attach("drop", pair.server)
    pair.connect().close()
    mine.globals["only_port"] = 1
    with pair.client_socket() as sock, pair.listen() as listener:
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.connect((str(pair.server.address(4)), listener.getsockname()[1]))
"""
    done = pytest_in(folder, text, "--family", "v4")
    assert "1 passed" in done.stdout, done.stdout


MISTAKES = [
    ('sockops_program("y.o")', "read the object y.o: ENOENT"),
    ('sockops_program("x.c")', "it is C source, not an ELF object"),
    ('sockops_program("x.o").attach("drop", "established")', "a program of xdp needs an interface"),
    ('sockops_program("x.o").attach("dorp", lab["server"])', "the set has watch, drop"),
    ('sockops_program("x.o").records("nothing")', "the set has no map of that name"),
    ('sockops_program("x.o").records("ports", "end")', "no debug information of such a struct"),
    ('sockops_program("x.o", tail_calls=(("ports", 0, "watch"),))', "no program array of that name"),
]


@pytest.mark.long
def test_a_mistake_is_said_in_one_line(folder: Path) -> None:
    tests = [
        f"def test_{number}(lab, sockops_program):\n    {call}\n" for number, (call, _) in enumerate(MISTAKES)
    ]
    done = pytest_in(folder, "\n\n".join(tests), "-ra")
    for number, (call, message) in enumerate(MISTAKES):
        part = done.stdout.partition(f"_ test_{number} _")[2].partition("\n____")[0]
        assert call in part
        assert message in part
    assert f"{len(MISTAKES)} failed" in done.stdout
    assert "testbed/bpf/" not in done.stdout  # where the testbed noticed is of no interest


@pytest.mark.long
def test_a_rejected_program_fails_the_test_with_the_report(folder: Path) -> None:
    bad = SOURCE.replace("seen++;", "*(__u64 *)bpf_map_lookup_elem(&established, &key) += 1;")
    (folder / "x.c").write_text(bad, encoding="utf-8")
    compile_object(folder / "x.c", [], folder / "x.o")
    done = pytest_in(folder, TEN_LINES, "--family", "v4")
    assert "load watch (sockops): EACCES (Permission denied): R0 invalid mem access" in done.stdout
    assert "bpf_map_lookup_elem(&established, &key) += 1;" in done.stdout


@pytest.mark.long
def test_the_contracts_fixtures_take_objects_too(folder: Path) -> None:
    """--object and --abi are options of pytest as they are of the command."""
    text = "def test_it(pair, mesh):\n    mesh.manage(pair.client)\n"
    done = pytest_in(folder, text, "--object", "x.o", "--family", "v4")
    assert "they fit no era" in done.stdout
    assert "NO  sockops program sockops_prog: watch" in done.stdout
