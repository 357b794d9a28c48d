"""Things that were left, in a person's words: what a descriptor stands for, what a process is."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from testbed.bill.bpf_objects import NAMES, facts, name_of, object_of
from testbed.bill.picture import Thing

_PROGRAM_TYPES = {  # enum bpf_prog_type, of what a lab attaches
    3: "sched_cls",
    6: "xdp",
    8: "cgroup_skb",
    9: "cgroup_sock",
    13: "sock_ops",
    14: "sk_skb",
    16: "sk_msg",
    18: "cgroup_sock_addr",
    25: "cgroup_sockopt",
}
_SOCKETS = {
    (socket.SOCK_STREAM, socket.IPPROTO_TCP): "TCP",
    (socket.SOCK_DGRAM, socket.IPPROTO_UDP): "UDP",
}


class Words(NamedTuple):
    """``head`` names it (``descriptor 17``), ``body`` says what it is, ``verb`` how one comes to have it."""

    head: str
    body: str
    verb: str


def words_of(thing: Thing) -> Words:
    """Read now, as far as it is still there."""
    return _WORDS.get(thing.kind, _plain)(thing)


def _plain(thing: Thing) -> Words:
    return Words(thing.kind, str(thing.key[-1]), "made")


def _own_namespace(thing: Thing) -> Words:
    return Words("namespace", f"{thing.key[0]}, which this process is in now", "entered")


def _bpf(thing: Thing) -> Words:
    kind, number = thing.key
    return Words(f"{kind} {number}", "lives on, though no descriptor here holds it", "loaded")


def _mount(thing: Thing) -> Words:
    return Words("mount", f"at {thing.key[1]}", "mounted")


def _thread(thing: Thing) -> Words:
    for thread in threading.enumerate():
        if thread.native_id == thing.key[0]:
            return Words(f"thread {thing.key[0]}", thread.name, "started")
    return Words(f"thread {thing.key[0]}", "not of Python's threading", "started")


def process_state(pid: int) -> str:
    """``Z`` and the like (proc(5)); empty once it is gone."""
    try:
        return (
            Path(f"/proc/{pid}/stat")
            .read_text(encoding="utf-8", errors="replace")
            .rpartition(")")[2]
            .split()[0]
        )
    except OSError:
        return ""


def command_of(pid: int) -> str:
    """The words of its command line."""
    try:
        data = Path(f"/proc/{pid}/cmdline").read_bytes()
        return (
            data.replace(b"\0", b" ").decode(errors="replace").strip()
            or Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
        )
    except OSError:
        return ""


def _process(thing: Thing) -> Words:
    pid = int(thing.key[0])
    if process_state(pid) == "Z":
        name = command_of(pid)
        return Words(f"zombie {pid}", f"{name}: it has ended, and nobody has waited for it", "started")
    body = command_of(pid)[:60]
    with suppress(OSError):
        namespace = Path(f"/proc/{pid}/ns/net").readlink()
        if namespace != Path("/proc/self/ns/net").readlink():
            body += f", in network namespace {namespace}"
    return Words(f"process {pid}", body, "started")


def _descriptor(thing: Thing) -> Words:
    fd = int(thing.key[0])
    head = f"descriptor {fd}"
    try:
        target = str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return Words(head, "closed meanwhile", "opened")
    if (found := object_of(fd)) is not None:
        return _bpf_descriptor(fd, NAMES[found.kind], found.number, name_of(found.kind, fd))
    if target.startswith("net:"):
        return Words(f"namespace {target}", f"held by descriptor {fd}", "opened")
    return Words(head, *_of_target(fd, target))


def _of_target(fd: int, target: str) -> tuple[str, str]:
    """(what it is, how one comes to have it) by where its link in /proc/self/fd leads."""
    if target.startswith("socket:"):
        return f"socket {_socket(fd)}", "opened"
    if target.startswith("anon_inode:"):
        what = target.partition(":")[2].strip("[]")
        pid = facts(fd).get("Pid", "")
        return (f"{what} of process {pid}" if pid else what), "opened"
    if target.startswith("/memfd:"):
        return f"memory {target.removeprefix('/memfd:').partition(' ')[0]!r}", "made"
    return target, "made" if target.startswith("pipe:") else "opened"


def _bpf_descriptor(fd: int, kind: str, number: int, name: str) -> Words:
    said = facts(fd)
    details = [f"descriptor {fd}"]
    if kind == "program":
        code = int(said.get("prog_type", "0"))
        details = [f"({_PROGRAM_TYPES.get(code, f'type {code}')})", *details]
    if kind == "link" and "prog_id" in said:
        details = [f"({said.get('link_type', '')} of program {said['prog_id']})", *details]
    return Words(f"{kind} {number}", " ".join(filter(None, [name, *details])), _VERBS.get(kind, "made"))


_VERBS = {"program": "loaded", "link": "attached", "BTF": "loaded"}


def _socket(fd: int) -> str:
    """``TCP 10.77.0.1:40000``. It is looked at by a copy, which goes at once."""
    copy = socket.socket(fileno=os.dup(fd))
    try:
        kind = socket.SocketKind(copy.type)
        names = [_SOCKETS.get((kind, copy.proto), "")]
        if not names[0]:
            names = [_family(copy.family), kind.name.removeprefix("SOCK_").lower()]
        with suppress(OSError):
            names.append(_address(copy.getsockname()))
        with suppress(OSError):
            names.append(f"→ {_address(copy.getpeername())}")
        return " ".join(filter(None, names))
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "")
    finally:
        copy.close()


def _family(number: int) -> str:
    with suppress(ValueError):
        return socket.AddressFamily(number).name
    return f"family {number}"


def _address(address: object) -> str:
    if isinstance(address, tuple) and len(address) in {2, 4} and isinstance(address[0], str):
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        return f"{host}:{address[1]}"
    return str(address) if address else ""


_WORDS: dict[str, Callable[[Thing], Words]] = {
    "bpf": _bpf,
    "descriptor": _descriptor,
    "mount": _mount,
    "own namespace": _own_namespace,
    "orphan": _process,
    "process": _process,
    "thread": _thread,
}
