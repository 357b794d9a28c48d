"""A cell of the matrix: the scenarios, or a share of them, on one kernel in a guest of its own."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from testbed.errors import MachineError, TestbedError
from testbed.guest import messages
from testbed.guest.guest import Guest, GuestEnded
from testbed.guest.ready import ready_guest
from testbed.guest.state import GuestReport, GuestState
from testbed.guest.stop import Stop
from testbed.guest.system import find_system
from testbed.kernels.find import find_kernels
from testbed.matrix.collection import Scenario, collect
from testbed.matrix.inside import digest_of
from testbed.matrix.model import CellResult
from testbed.matrix.own_objects import own_objects
from testbed.report.results import Result
from testbed.report.session import Selection

_INSIDE = "testbed.matrix.inside"
_COLLECTED_S, _PREPARED_S, _SCENARIO_S = 10.0, 20.0, 10.0


@dataclass(frozen=True)
class Cell:
    """All that a worker, on this machine or on another, needs to know; it is sent by pickle.

    ``kernel`` is an exact version of the archive or a path, ``label`` its column's name. ``objects`` are
    people's own, by file name and content; without any the reference is under test. ``selection`` says
    which scenarios; its objects are left out. Of ``shares`` equal shares of them this is number
    ``share``, from 0: the shares of one kernel become one column.
    """

    label: str
    kernel: str
    modules: Path | None = None
    objects: tuple[tuple[str, bytes], ...] = ()
    selection: Selection = field(default_factory=Selection)
    share: int = 0
    shares: int = 1


OnResult = Callable[[Result], None]


def run_cell(cell: Cell, on_result: OnResult | None = None, stop: Stop | None = None) -> CellResult:
    """Boots the kernel and runs the scenarios in it; ``on_result`` is told each verdict as it falls.

    `TestbedError` when no guest could be started at all: no QEMU, no such kernel, a bad selection.
    `Stopped` as soon as ``stop`` is set.
    """
    chosen = _chosen(cell)
    results: list[Result] = []
    with ExitStack() as stack:
        try:
            guest = _prepared(cell, stop, stack)
            _run(guest, chosen, results, on_result or (lambda _: None))
        except GuestEnded as ended:
            return CellResult(cell.label, ended.report, tuple(results))
        except _Lacks as lack:
            skipped = tuple(_skipped(scenario, str(lack)) for scenario in chosen.values())
            return CellResult(cell.label, lack.report, skipped)
        except _NothingRuns as problem:
            return CellResult(cell.label, problem.report, error=str(problem))
        return CellResult(cell.label, guest.report(), tuple(results))


class _NothingRuns(Exception):
    """The guest is there, and what is to be tested cannot be: the kernel rejects the programs, say."""

    def __init__(self, report: GuestReport, words: str) -> None:
        super().__init__(words)
        self.report = report


class _Lacks(_NothingRuns):
    """The kernel is too old for the programs."""


def _chosen(cell: Cell) -> dict[int, Scenario]:
    """The scenarios of this cell, by their numbers in the guest's collection, which is of all."""
    numbers = {scenario.nodeid: number for number, scenario in enumerate(collect(Selection()))}
    wanted = collect(replace(cell.selection, objects=()))[cell.share :: cell.shares]
    return {numbers[scenario.nodeid]: scenario for scenario in wanted}


def _prepared(cell: Cell, stop: Stop | None, stack: ExitStack) -> Guest:
    """A guest in which the first scenario can run at once: restored if it can be, else booted."""
    kernel = find_kernels([cell.kernel], modules=cell.modules)[0]
    under_test = _Subject(cell, stop)
    guest = stack.enter_context(
        ready_guest(
            kernel,
            find_system(own_objects()),
            _INSIDE,
            under_test.prepare_to_keep,
            purpose=under_test.kept,
        )
    )
    under_test.prepare(guest)
    return guest


@dataclass(frozen=True)
class _Subject:
    """What is under test, and how much of it a snapshot has: all of the reference, nothing of objects."""

    cell: Cell
    stop: Stop | None

    @property
    def kept(self) -> str:
        return "collected" if self.cell.objects else "prepared"

    def prepare_to_keep(self, guest: Guest) -> None:
        self._heed(guest)
        guest.await_up()
        awaited = "its collection of scenarios"
        message = guest.receive(guest.pace.seconds(_COLLECTED_S), awaited)
        if not isinstance(message, messages.Collected):
            raise _nothing_runs(guest, message, awaited)
        if message.digest != digest_of(scenario.nodeid for scenario in collect(Selection())):
            raise MachineError(
                "compare what the guest collected with what this machine did",
                "they differ",
                "please report it",
            )
        if not self.cell.objects:
            self._prepare(guest)
        guest.note_ready()
        guest.wake(event="settle")
        message = guest.receive(guest.pace.seconds(_PREPARED_S), "its late imports")
        if not isinstance(message, messages.Settled):
            raise _nothing_runs(guest, message, "its late imports")

    def prepare(self, guest: Guest) -> None:
        self._heed(guest)
        if self.cell.objects:
            self._prepare(guest)

    def _heed(self, guest: Guest) -> None:
        if self.stop is not None:
            guest.watch(self.stop.fileno(), self.stop.heed)

    def _prepare(self, guest: Guest) -> None:
        selection = self.cell.selection
        objects = [(name, base64.b64encode(zlib.compress(data)).decode()) for name, data in self.cell.objects]
        options = {
            "abi": selection.abi,
            "tail_call": list(selection.tail_calls),
            "inner_map": list(selection.inner_maps),
        }
        guest.wake(event="prepare", objects=objects, **options)
        message = guest.receive(guest.pace.seconds(_PREPARED_S), "the programs, loaded")
        if not isinstance(message, messages.Prepared):
            raise _nothing_runs(guest, message, "the programs, loaded")
        if message.splat:
            words = f"the kernel complained while the programs were loaded:\n{message.splat}"
            raise _NothingRuns(guest.report(), words)


def _nothing_runs(guest: Guest, message: messages.Message, awaited: str) -> Exception:
    match message:
        case messages.Fault(why=why, trace=trace):
            return TestbedError("run the scenarios in the guest", why, "please report it", trace)
        case messages.NoBpf(why=why):
            return GuestEnded(guest.report(GuestState.NO_BPF, why))
        case messages.Lacks(why=why):
            return _Lacks(guest.report(), why)
        case messages.Fatal(words=words):
            return _NothingRuns(guest.report(), str(TestbedError(*words)))
        case _:
            return guest.unexpected(message, awaited)


def _run(guest: Guest, chosen: dict[int, Scenario], results: list[Result], on_result: OnResult) -> None:
    guest.wake(event="run", items=list(chosen))
    running = "the first scenario"
    while True:
        try:
            message = guest.receive(guest.pace.seconds(_SCENARIO_S), running)
        except GuestEnded as ended:
            if ended.report.state is GuestState.HANG:
                raise  # it names what was awaited
            why = f"{ended.report.why}; then {running} ran"
            raise GuestEnded(replace(ended.report, why=why)) from ended
        match message:
            case messages.Start(item=item) if item in chosen:
                running = chosen[item].nodeid
                guest.note_ready()
            case messages.Verdict(item=item) if item in chosen:
                results.append(_result(chosen[item], message))
                on_result(results[-1])
            case messages.Done():
                return
            case _:
                raise _nothing_runs(guest, message, running)


def _skipped(scenario: Scenario, why: str) -> Result:
    return Result(scenario.about, scenario.nodeid, scenario.place, "skipped", 0.0, why)


def _result(scenario: Scenario, message: messages.Verdict) -> Result:
    return Result(
        scenario.about,
        scenario.nodeid,
        scenario.place,
        message.outcome,
        message.seconds,
        message.details,
        tuple(message.violated),
    )
