"""`testbed doctor`: does each thing that a check needs, one after the other, and says what happened."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.text import Text

from testbed.bpf.features import BTF, kernel_btf
from testbed.errors import MachineError, TestbedError, command, machine_error, need_descriptors
from testbed.kernel.privileges import LAB, in_user_namespace, missing, need

OLDEST_KERNEL = (5, 10)
_DESCRIPTORS = 80  # a lab, bcc and the loader at once, and some to spare
_LOOK_AT_PROGRAMS = "git diff bpf/"
_LOOK_AT_KERNEL = "zgrep -E 'CGROUP_BPF|VETH|INET_TCP_DIAG|IPV6' /proc/config.gz"


@dataclass(frozen=True)
class Finding:
    """One thing that was tried: ``ok`` None means not tried, as something that it needs failed."""

    name: str
    ok: bool | None
    detail: str
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Examination:
    """What earlier steps made for later ones."""

    stack: ExitStack
    made: dict[str, Any] = field(default_factory=dict)


def _root(_made: _Examination) -> str:
    absent = missing(LAB)
    if absent and os.geteuid() == 0:  # whom sudo gives no more
        need("be root", LAB)
    if absent:
        why = f"user {os.geteuid()}, without {', '.join(absent)}"
        raise MachineError("be root", why, f"sudo {command('doctor')}")
    namespaced = ", in a user namespace" if in_user_namespace() else ""
    return f"user {os.geteuid()} with {', '.join(LAB)}{namespaced}"


def _packets(_made: _Examination) -> str:
    need("see packets", ("CAP_NET_RAW",))
    return "CAP_NET_RAW: packets can be recorded, held and sent"


def _kernel(_made: _Examination) -> str:
    release = os.uname().release
    version = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
    if version < OLDEST_KERNEL:
        raise MachineError(
            "run on this kernel",
            f"Linux {release} is older than {'.'.join(map(str, OLDEST_KERNEL))}",
            "boot a newer kernel",
        )
    return f"Linux {release} {os.uname().machine}"


def _btf(_made: _Examination) -> str:
    return f"{kernel_btf() // 1024} KiB in {BTF}"


def _cgroup(made: _Examination) -> str:
    from testbed.lab.bench import Bench

    made.made["bench"] = made.stack.enter_context(Bench())
    return f"v2, {made.made['bench'].root.where}; cgroups of our own can be made and owned"


def _lab(made: _Examination) -> str:
    from testbed.lab.lab import Lab
    from testbed.topology.load import load_topology

    topology = load_topology("pair")
    # the first one pays for what all later ones share
    Lab(made.made["bench"], topology).close()
    start = time.perf_counter()
    made.made["lab"] = made.stack.enter_context(Lab(made.made["bench"], topology))
    return f"two hosts, their veth, IPv4 and IPv6: ready in {1000 * (time.perf_counter() - start):.1f} ms"


def _safety(made: _Examination) -> str:
    from testbed.bpf.own_cgroups import is_descendant, name_of, need_own
    from testbed.kernel.cgroup import processes

    bench, lab = made.made["bench"], made.made["lab"]
    need_own(lab.cgroup_fd, "attach programs")
    within = processes(bench.cgroup)
    strangers = [pid for pid in within if not is_descendant(pid, os.getpid())]
    if strangers:
        names = ", ".join(map(name_of, strangers))
        raise MachineError("make a lab that is safe", f"its cgroup holds foreign processes: {names}")
    return (
        f"programs are attached below {bench.cgroup.name} alone, a cgroup of cgroup v2 {bench.root.where};"
        f" the {len(within)} processes in it are this run's"
    )


def _sockets(made: _Examination) -> str:
    from testbed.kernel.sockdiag import TcpState
    from testbed.lab.family import Family
    from testbed.lab.pair import Pair

    for family in Family:
        with Pair(made.made["lab"], family).connect() as connection:
            for name, host in made.made["lab"].hosts.items():
                if not any(found.state is TcpState.ESTABLISHED for found in host.tcp_sockets()):
                    raise MachineError(
                        f"find {connection} in sock_diag of {name}", "it is not there", _LOOK_AT_KERNEL
                    )
    made.made["lab"].settle()
    return "connected, closed and settled in v4, v6 and mapped; sock_diag answers"


def _bcc(_made: _Examination) -> str:
    from testbed.bpf.bcc_loader import bcc_version

    return bcc_version()


def _headers(_made: _Examination) -> str:
    from testbed.bpf.headers import find_headers

    return str(find_headers().source)


def _tap(made: _Examination) -> str:
    from testbed.observe.tap import TapProgram

    program = made.stack.enter_context(TapProgram())
    made.made["tap"] = made.stack.enter_context(program.tap(made.made["lab"]))
    return "compiled, loaded, attached to a cgroup by a bpf_link"


def _reference(made: _Examination) -> str:
    from testbed.kmesh.mesh import Mesh
    from testbed.kmesh.reference import load_reference

    program_set = made.stack.enter_context(load_reference())
    made.made["mesh"] = made.stack.enter_context(Mesh(program_set, made.made["lab"]))
    kinds = ", ".join(program.kind.section for program in program_set.programs.values() if program.kind)
    return f"compiled, loaded, attached: {kinds}"


def _objects(made: _Examination) -> str:
    from testbed.bpf import libbpf
    from testbed.bpf.elf.loader import ObjectLoader
    from testbed.bpf.elf.program_sets import load_objects
    from testbed.kmesh.reference import build_reference
    from testbed.scratch import scratch_folder

    built = build_reference(made.stack.enter_context(scratch_folder("objects")))
    with ObjectLoader() as loader, load_objects(loader, built) as loaded:
        for failure in loaded.failures:
            raise MachineError(f"load {failure.name}", failure.reason, _LOOK_AT_PROGRAMS, failure.details)
    names = ", ".join(path.name for path in built)
    return f"{names}: built with clang, loaded with libbpf {libbpf.version()}"


def _records(made: _Examination) -> str:
    from testbed.lab.pair import Pair

    mesh, lab = made.made["mesh"], made.made["lab"]
    pair = Pair(lab)
    mesh.manage(pair.client, pair.server)
    with pair.connect():
        pass
    lab.settle()
    if len(mesh.observed) != 4:
        raise MachineError(
            "observe a connection", f"{len(mesh.observed)} records came instead of 4", command("check")
        )
    return f"a connection made 4 records, {len(made.made['tap'])} callbacks were seen in this lab"


@dataclass(frozen=True)
class _Step:
    name: str
    act: Callable[[_Examination], str]
    needs: tuple[str, ...] = ()


STEPS = (
    _Step("root", _root),
    _Step("kernel", _kernel),
    _Step("BTF", _btf),
    _Step("cgroups", _cgroup, ("root",)),
    _Step("lab", _lab, ("cgroups",)),
    _Step("safety", _safety, ("lab",)),
    _Step("packets", _packets),
    _Step("sockets", _sockets, ("lab",)),
    _Step("bcc", _bcc),
    _Step("headers", _headers),
    _Step("tap", _tap, ("root", "BTF", "lab")),
    _Step("programs", _reference, ("root", "BTF", "lab", "bcc", "headers")),
    _Step("objects", _objects, ("root", "BTF")),
    _Step("records", _records, ("sockets", "tap", "programs")),
)


def _try(step: _Step, examination: _Examination, so_far: dict[str, Finding]) -> Finding:
    missing = [name for name in step.needs if not so_far[name].ok]
    if missing:
        return Finding(step.name, None, f"not tried: it needs {', '.join(missing)}")
    try:
        return Finding(step.name, True, step.act(examination))
    except TestbedError as error:
        detail = f"{error.what}: {error.why}" + (f"\n{error.details}" if error.details else "")
        return Finding(step.name, False, detail, error.fix)
    except AssertionError as error:  # an expired wait, a record that is none
        return Finding(step.name, False, str(error), _LOOK_AT_PROGRAMS)
    except OSError as error:
        told = machine_error(f"try {step.name}", error, _LOOK_AT_KERNEL)
        return Finding(step.name, False, f"{told.what}: {told.why}", told.fix)


def examine() -> list[Finding]:
    """Tries everything, in order; leaves nothing behind. `MachineError` where few files can be opened:
    then not even what was made can be removed.
    """
    need_descriptors(_DESCRIPTORS, "try what a check needs")
    findings: dict[str, Finding] = {}
    with ExitStack() as stack:
        examination = _Examination(stack)
        for step in STEPS:
            findings[step.name] = _try(step, examination, findings)
    return list(findings.values())


_WORDS = {True: ("ok", "green"), False: ("FAIL", "bold red"), None: ("–", "yellow")}


def print_findings(findings: list[Finding], console: Console) -> None:
    """A line each; under what failed, the one command that mends it."""
    for finding in findings:
        word, style = _WORDS[finding.ok]
        first, *rest = finding.detail.splitlines() or [""]
        console.print(
            Text(f"{word:<5}", style=style) + Text(f"{finding.name:<10}{first}", style=""), soft_wrap=True
        )
        for line in rest:
            console.print(Text(f"{'':<15}{line}"), soft_wrap=True)
        if finding.fix:
            console.print(Text(f"{'':<15}→ {finding.fix}", style="bold"), soft_wrap=True)
