"""`testbed check`: runs the contract's scenarios and prints their verdicts."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

import testbed
from testbed.bpf.elf.file import read_object
from testbed.bpf.elf.loader import LoadOptions, ObjectLoader
from testbed.bpf.elf.words import parse_inner_map, parse_tail_call
from testbed.data import data_dir
from testbed.errors import (
    ExitCode,
    MachineError,
    UsageError,
    command,
    need_descriptors,
    need_memory,
    need_processes,
)
from testbed.kernel.privileges import need_root
from testbed.kmesh.profile import load_profile
from testbed.kmesh.subject import load_subject
from testbed.pytest_plugin import parse_families
from testbed.report.one_family import not_done
from testbed.report.outputs import Unwritten, memory_file, need_writable, write_output
from testbed.report.recording import MODES, held_words, need_folders
from testbed.report.results import Collector, Result, in_order, short_name
from testbed.report.session import Selection, only_ours
from testbed.report.table import print_failures, print_skips, print_violations, summary, verdict_table
from testbed.runs.folder import need_state
from testbed.scratch import scratch_folder

_CAPSULES_TOLD = 5
_MOST_WORKERS = 16  # for each CPU
_OF_A_WORKER = 8  # processes and threads: its own, the spawner and the loader, and a few brokers
_MEMORY = 64 << 20  # bytes
_DESCRIPTORS = 32  # with less, not even what a run says of it can be said


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line."""

    family: str
    expression: str = ""
    workers: str = "0"
    list_only: bool = False
    junit: Path | None = None
    objects: tuple[Path, ...] = ()
    abi: str = ""
    tail_calls: tuple[str, ...] = ()
    inner_maps: tuple[str, ...] = ()
    stories: Path | None = None
    record: str = "failures"
    run: Path | None = None
    capsule: Path | None = None
    hold: bool = False
    quick: bool = False


def _arguments(request: Request, under_test: str, junit: Path | None = None) -> list[str]:
    selection = Selection(
        request.family,
        request.expression,
        request.abi,
        request.objects,
        request.tail_calls,
        request.inner_maps,
        "off" if request.list_only else request.record,
        request.hold,
        request.run,
        request.capsule,
        under_test,
        shlex.join(sys.argv[1:]),
        request.quick,
    )
    arguments = [*selection.arguments(), "-o", "verbosity_assertions=2"]
    if request.list_only:
        arguments.append("--collect-only")
    elif request.workers != "0":
        arguments += ["-p", "xdist.plugin", "-n", request.workers]
    if request.stories is not None:
        arguments.append("--stories")
    if junit is not None:
        arguments += ["--junitxml", str(junit)]
    return arguments


def _validate(request: Request) -> tuple[str, ...]:
    try:
        families = parse_families(request.family)
    except ValueError as error:
        raise UsageError("read --family", str(error)) from error
    if not (request.workers == "auto" or request.workers.isdecimal()):
        raise UsageError("read -n", f"{request.workers!r} is neither a number of processes nor auto")
    if request.workers.isdecimal() and int(request.workers) > (most := _MOST_WORKERS * (os.cpu_count() or 1)):
        why = f"{request.workers} processes are more than {_MOST_WORKERS} for each of the machine's CPUs"
        raise UsageError("read -n", why, f"at most {most}; `-n auto` takes one a CPU")
    if request.record not in MODES:
        raise UsageError("read --record", f"{request.record!r} is none of {', '.join(MODES)}")
    if not request.list_only:
        need_descriptors(_DESCRIPTORS, "run the scenarios")
        need_memory(_MEMORY, "run the scenarios")
        need_folders(request.record, request.run, request.capsule)
        if request.record != "off":
            need_state()
    for file in (request.junit, request.stories):
        if file is not None and not request.list_only:
            need_writable(file)
    return families


def run_check(request: Request, console: Console) -> ExitCode:
    """Runs the scenarios, or lists them. Returns the exit code; `TestbedError` when nothing could run."""
    if not request.list_only:
        need_root("run the scenarios")
    families = _validate(request)
    origin = _describe_subject(request, console)
    collector = Collector()
    start = time.monotonic()
    unwritten = Unwritten()
    with only_ours(), memory_file() as (memory, junit), _room_for_workers(request) as words:
        arguments = [*_arguments(request, origin, junit if request.junit else None), *words]
        code = pytest.main(arguments, plugins=[collector])
        _write_outputs(request, collector, memory, unwritten)
    if not collector.has_verdicts:
        _raise_problems(request, collector, code)
    results = in_order(collector.verdicts)
    if code == pytest.ExitCode.INTERRUPTED and not results:
        sys.stderr.write("testbed: interrupted before the first verdict\n")
        return ExitCode.INTERRUPTED
    if request.list_only:
        for nodeid, about in collector.items:
            console.print(
                f"{short_name(nodeid)}  {about.title}", markup=False, highlight=False, soft_wrap=True
            )
        return ExitCode.PASSED
    facts, kept = (origin, _machine()), _kept(collector)
    left_out = not_done(families) if request.quick else ""
    print_results(console, results, families, facts, time.monotonic() - start, kept, left_out)
    _raise_problems(request, collector, code)
    unwritten.tell()
    if code == pytest.ExitCode.INTERRUPTED and not collector.held:
        sys.stderr.write("testbed: interrupted; what had been run is shown above\n")
        return ExitCode.INTERRUPTED
    if code == pytest.ExitCode.OK and not any(result.outcome == "passed" for result in results):
        sys.stderr.write("testbed: nothing was tested: every scenario was skipped, for the reasons above\n")
        return ExitCode.CANNOT_RUN
    return ExitCode.PASSED if code == pytest.ExitCode.OK else ExitCode.FAILED


@contextmanager
def _room_for_workers(request: Request) -> Iterator[list[str]]:
    """Arguments of a directory for xdist's workers, which would leave one behind otherwise."""
    if request.list_only or request.workers == "0":
        yield []
        return
    count = len(os.sched_getaffinity(0)) if request.workers == "auto" else int(request.workers)
    need_processes(_OF_A_WORKER * count + 1, f"run the scenarios by {count} processes")
    with scratch_folder("workers") as folder:
        yield ["--basetemp", str(folder / "workers")]


def _write_outputs(request: Request, collector: Collector, junit: int, unwritten: Unwritten) -> None:
    """``junit`` is a descriptor of what pytest has written."""
    if request.list_only or not collector.has_verdicts:
        return
    if request.junit is not None:
        with unwritten.kept_back():
            write_output(request.junit, os.pread(junit, os.fstat(junit).st_size, 0))
    if request.stories is not None:
        with unwritten.kept_back():
            write_output(request.stories, json.dumps(collector.stories, indent=1, sort_keys=True))


def print_results(
    console: Console,
    results: list[Result],
    families: Sequence[str],
    facts: Sequence[str],
    seconds: float,
    more: Iterable[str] = (),
    left_out: str = "",
) -> None:
    """The table, what is behind it, what was under test where (``facts``), ``more`` lines, and the sum.

    ``left_out`` is said behind that.
    """
    console.print(verdict_table(results, families))
    print_failures(console, results)
    print_violations(console, results)
    print_skips(console, results)
    console.print()
    words = " · ".join((f"testbed {testbed.__version__}", *facts))
    for line in (words, *more):
        console.print(line, style="dim", highlight=False, soft_wrap=True, markup=False)
    console.print(summary(results, seconds), left_out, sep="", highlight=False, soft_wrap=True)


def _kept(collector: Collector) -> Iterator[str]:
    """Where the stories are, and what of each new way to fail can be sent to somebody."""
    if collector.held:
        yield f"the lab of the first failure is up: {held_words(collector.held)}"
    if collector.unkept:
        yield f"not every story is kept: cannot {collector.unkept}"
    if collector.kept is None:
        return
    sudo = "sudo " if "SUDO_USER" in os.environ else ""  # they belong to who ran this
    yield f"stories: {sudo}{command('story last')}  ·  {sudo}{command('report last -o report.html')}"
    for path in collector.capsules[:_CAPSULES_TOLD]:
        yield f"capsule: {command(f'replay {path}')}"
    if len(collector.capsules) > _CAPSULES_TOLD:
        yield f"and {len(collector.capsules) - _CAPSULES_TOLD} more beside them"


def _machine() -> str:
    uname = platform.uname()
    return f"Linux {uname.release} {uname.machine}"


def _describe_subject(request: Request, console: Console) -> str:
    """Prints what people's objects contain, and what that leaves untested. Returns what is under test."""
    if request.abi:
        load_profile(request.abi)
    if not request.objects:
        if request.tail_calls or request.inner_maps:
            raise UsageError(
                "use --tail-call or --inner-map", "they are about objects, and --object names none"
            )
        return f"the reference in bpf/, {'compiled' if data_dir('objects').is_dir() else 'by bcc'}"
    options = LoadOptions(
        tail_calls=tuple(map(parse_tail_call, request.tail_calls)),
        inner_maps=dict(map(parse_inner_map, request.inner_maps)),
    )
    if request.list_only:
        for path in request.objects:
            read_object(path)
        return ""
    with ObjectLoader() as loader, load_subject(loader, request.objects, request.abi, options) as subject:
        heading = ""
        for name, words in subject.lines():
            shown = name if name != heading else ""
            console.print(Text.assemble((f"{shown:<10}", "bold"), words), soft_wrap=True)
            heading = name
        console.print()
        return subject.program_set.origin


def _raise_problems(request: Request, collector: Collector, code: int) -> None:
    """Whatever kept the scenarios from running. A scenario's failure is none of it."""
    if collector.fatal is not None:
        raise collector.fatal
    if collector.collection_errors:
        raise MachineError(
            "collect the scenarios", "they cannot be imported", "", "\n".join(collector.collection_errors)
        )
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        raise UsageError(
            f"find scenarios that match -k {request.expression!r}",
            "there is none",
            f"`{command('check --list')}` shows them all",
        )
    if code == pytest.ExitCode.USAGE_ERROR:
        raise UsageError(f"read -k {request.expression!r}", "it is no expression (see the line above)")
    if code == pytest.ExitCode.INTERNAL_ERROR:
        raise MachineError("run the scenarios", "pytest failed within itself", "please report it")
