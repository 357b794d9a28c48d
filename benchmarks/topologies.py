"""Sections `bare`, `pair`, `connect`: two hosts and a link by the testbed and others; the first connect."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from socket import AF_INET, AF_INET6

from benchmarks.asked import HERE, PRIVATE, Asked, compiled
from benchmarks.bare import bare_milliseconds
from benchmarks.measure import Contender, Limit, Options, Prepared, Row, Section, Taken, Target, clocked
from benchmarks.named import NamedPair
from testbed.errors import UsageError
from testbed.lab.bench import Bench
from testbed.lab.family import Family
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair
from testbed.lab.wiring import wire
from testbed.topology.load import load_topology

DEBIAN_PYTHON = "/usr/bin/python3"  # the only one that Debian's mininet is installed for
NO_MININET = "not installed: apt-get install --no-install-recommends mininet"
NO_MUNET = (
    "not installed: python3 -m venv /tmp/munet && /tmp/munet/bin/pip install munet,"
    " then --munet /tmp/munet/bin/python"
)
MUNET_EVERY = 6  # rounds: it takes as long as several hundred of ours

BARE = (
    Row("bare.c", "raw netlink in C", "ms", short="C"),
    Row("bare.testbed", "testbed", "ms", "bare.c", Target("ratio", at_most=1.5)),
    Row("bare.ip", "`ip` commands", "ms", "bare.testbed", Target("ratio", at_least=8)),
    Row("bare.batch", "`ip -batch`", "ms", "bare.testbed"),
    Row("bare.mininet", "Mininet", "ms", "bare.testbed", Target("ratio", at_least=12)),
    Row("bare.munet", "munet", "ms", "bare.testbed", Target("ratio", at_least=150)),
)
PAIR = (
    Row("pair.c", "the same in C", "ms", short="C"),
    Row("pair.testbed", "testbed: a Lab", "ms", "pair.c", Target("ratio", at_most=1.5)),
    Row("pair.down", "taking it down", "ms"),
)
CONNECT = (
    Row("connect.v4", "testbed, IPv4", "ms", "connect.again", short="testbed"),
    Row("connect.v6", "testbed, IPv6", "ms", "connect.again", short="testbed"),
    Row("connect.again", "the next one, IPv4", "ms", short="the next"),
    Row("connect.ip.v4", "hosts of `ip` commands, IPv4", "ms", "connect.v4"),
    Row("connect.ip.v6", "hosts of `ip` commands, IPv6", "ms", "connect.v6"),
)


def _has(python: str, module: str) -> bool:
    find = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    try:
        return not subprocess.run([python, "-I", "-c", find], check=False, capture_output=True).returncode
    except OSError as error:
        raise UsageError(f"run {python}", error.strerror or str(error)) from error


def need_munet(python: str) -> None:
    """`UsageError` for a Python that was named and has no munet."""
    if python and not _has(python, "munet"):
        raise UsageError(f"use --munet {python}", "it has no munet", f"{python} -m pip install munet")


def _mininet() -> list[str]:
    """The command of the process that makes pairs by Mininet; none where it is not installed."""
    if shutil.which("mnexec") is None or not _has(DEBIAN_PYTHON, "mininet"):
        return []
    return [*PRIVATE, DEBIAN_PYTHON, str(HERE / "with_mininet.py")]


def _munet(python: str) -> list[str]:
    """The same by munet. It enters the namespaces of process 1: in a namespace of its own it may."""
    if not python and importlib.util.find_spec("munet") is None:
        return []
    own = ("--pid", "--fork", "--mount-proc", "--kill-child")
    return [*PRIVATE, *own, python or sys.executable, str(HERE / "with_munet.py")]


def _asking(key: str, command: Sequence[str], stack: ExitStack) -> Callable[[], Taken]:
    """It answers in nanoseconds; then that it was taken down. One that has ended is started again."""
    running: list[Asked] = []

    def run() -> Taken:
        if not running:
            running.append(Asked(key, command, stack))
        process = running.pop()
        took = process.number() / 1e6
        process.answer()
        running.append(process)
        return {key: [took]}

    return run


def prepare_bare(options: Options, stack: ExitStack) -> Prepared:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    wiring = wire(load_topology("pair"))
    c = Asked("pair.c", [compiled("pair", folder)], stack)
    commands, batches = NamedPair(folder, stack), NamedPair(folder, stack, batch=True)
    contenders = [
        Contender("c", lambda: {"bare.c": [c.number() / 1e6]}),
        Contender("testbed", lambda: {"bare.testbed": [bare_milliseconds(wiring)]}),
        Contender("ip", lambda: {"bare.ip": [commands.milliseconds()]}),
        Contender("batch", lambda: {"bare.batch": [batches.milliseconds()]}),
    ]
    missing = {}
    for key, command, none, every in (
        ("bare.mininet", _mininet(), NO_MININET, 1),
        ("bare.munet", _munet(options.munet), NO_MUNET, MUNET_EVERY),
    ):
        if command:
            contenders.append(Contender(key, _asking(key, command, stack), every, may_fail=True))
        else:
            missing[key] = none
    return Prepared(contenders, missing)


def prepare_pair(_options: Options, stack: ExitStack) -> Prepared:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    bench = stack.enter_context(Bench())
    topology = load_topology("pair")
    c = Asked("pair.c", [compiled("pair", folder), bench.cgroup], stack)

    def lab() -> Taken:
        up: list[float] = []
        down: list[float] = []
        with clocked(up):
            made = Lab(bench, topology)
        with clocked(down):
            made.close()
        return {"pair.testbed": up, "pair.down": down}

    return Prepared([Contender("c", lambda: {"pair.c": [c.number() / 1e6]}), Contender("testbed", lab)])


def prepare_connect(_options: Options, stack: ExitStack) -> Prepared:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    bench = stack.enter_context(Bench())
    topology = load_topology("pair")
    named = NamedPair(folder, stack)

    def ours(family: Family) -> Taken:
        with Lab(bench, topology) as lab:
            taken = {f"connect.{family.value}": [_connect(Pair(lab, family))]}
            return taken | ({"connect.again": [_connect(Pair(lab, family))]} if family is Family.V4 else {})

    return Prepared(
        [
            Contender("v4", lambda: ours(Family.V4)),
            Contender("v6", lambda: ours(Family.V6)),
            Contender("ip v4", lambda: {"connect.ip.v4": [named.first_connect(AF_INET, "10.77.0.2")]}),
            Contender("ip v6", lambda: {"connect.ip.v6": [named.first_connect(AF_INET6, "fd77::2")]}),
        ]
    )


def _connect(pair: Pair) -> float:
    """connect() alone: from the call to the established connection, in milliseconds."""
    times: list[float] = []
    with pair.listen() as listener, pair.client_socket() as client:
        address = (str(pair.server.address(pair.family.version)), listener.getsockname()[1])
        with clocked(times):
            client.connect(address)
    return times[0]


SECTIONS = (
    Section(
        "bare",
        "Two hosts and a link, bare: namespaces, veth, addresses, routes; ready to connect",
        BARE,
        prepare_bare,
        quick=Limit(20, 5),
        whole=Limit(60, 50),
    ),
    Section(
        "pair",
        "The same as the testbed's hosts have it: with cgroups and brokers",
        PAIR,
        prepare_pair,
        quick=Limit(40, 2),
        whole=Limit(150, 10),
    ),
    Section(
        "connect",
        "The first connect() of new hosts",
        CONNECT,
        prepare_connect,
        quick=Limit(10, 2),
        whole=Limit(40, 20),
    ),
)
