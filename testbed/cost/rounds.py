"""One pass: a lab for each set and one without, side by side; rounds in which each has its turn."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from testbed.cost.contender import Contender
from testbed.cost.counters import Runs, enable_statistics, runs_of
from testbed.cost.marks import NOTHING, Marks
from testbed.cost.play import Nobody, Play, put_to_work
from testbed.cost.result import NONE, WITHOUT, Counted, Request
from testbed.cost.traffic import BATCH, Traffic
from testbed.lab.bench import Bench
from testbed.lab.lab import Lab
from testbed.topology.load import load_topology

Progress = Callable[[], None]


@dataclass
class Lane:
    """One lab, and who is at work in it. ``programs`` are descriptors by key."""

    lab: Lab
    play: Play
    traffic: Traffic
    contender: Contender | None
    programs: Mapping[str, int]
    rates: list[float] = field(default_factory=list)
    counted: list[Counted] = field(default_factory=list)

    @property
    def letter(self) -> str:
        return self.contender.letter if self.contender else WITHOUT


class Pass:
    """Sets that were loaded for it, at work until ``stack`` closes. Each pass has another order of labs."""

    def __init__(
        self,
        bench: Bench,
        marks: Marks,
        contenders: Sequence[Contender],
        request: Request,
        number: int,
        stack: ExitStack,
    ) -> None:
        self._marks = marks
        self._request = request
        self._batches = request.connections // BATCH
        self._order = random.Random(f"{request.seed} {number}")  # noqa: S311 (an order to be had again)
        start = number % (1 + len(contenders))
        everybody = [None, *contenders]
        topology = load_topology("pair")
        self.lanes = [
            self._lane(stack.enter_context(Lab(bench, topology)), contender, stack)
            for contender in everybody[start:] + everybody[:start]
        ]

    def _lane(self, lab: Lab, contender: Contender | None, stack: ExitStack) -> Lane:
        play: Play = Nobody()
        programs: dict[str, int] = {}
        about = "without a program"
        if contender is not None:
            play = put_to_work(contender, lab, self._request.family, stack)
            programs = {key: contender.program_set.programs[name].fd for key, name in contender.keys.items()}
            about = f"through {contender.letter} ({contender.spec.text})"
        return Lane(lab, play, Traffic(lab, self._request.family, play, about), contender, programs)

    def _in_turn(self) -> list[Lane]:
        return self._order.sample(self.lanes, len(self.lanes))

    def measure(self, rounds: int, progress: Progress) -> str:
        """So many rounds with nothing else going on, and as many in which the kernel and the marks count.

        Returns why these did not; empty where they did.
        """
        for lane in self.lanes:
            lane.traffic.batch()  # it has run, and is warm
        for _ in range(rounds):
            for lane in self._in_turn():
                # of its batches the fastest: whoever else wants the CPU is in some of them
                took = min(lane.traffic.batch() for _ in range(self._batches))
                lane.rates.append(1e9 * BATCH / took)
            progress()
        with ExitStack() as stack:
            if why := enable_statistics(stack):
                return why
            self._mark(stack)
            for _ in range(rounds):
                for lane in self._in_turn():
                    lane.counted.append(self._count(lane))
                progress()
        return ""

    def _mark(self, stack: ExitStack) -> None:
        for lane in self.lanes:
            self._marks.attach(lane.lab, stack)
            if lane.contender is None:
                lane.programs = {NOTHING: self._marks.attach_nothing(lane.lab, stack)}

    def _count(self, lane: Lane) -> Counted:
        before, (ops_before, lost_before) = self._runs(lane), self._marks.read()
        for _ in range(self._batches):
            lane.traffic.batch()
        after, (ops, lost) = self._runs(lane), self._marks.read()
        return Counted(
            {key: after[key] - runs for key, runs in before.items()},
            {op: more for op in ops if (more := ops[op] - ops_before.get(op, NONE)).times},
            lost - lost_before,
        )

    def _runs(self, lane: Lane) -> dict[str, Runs]:
        return {key: runs_of(fd) for key, fd in lane.programs.items()}
