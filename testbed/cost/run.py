"""The cost run, from its sets to its result."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

from testbed.bpf.elf.loader import LoadOptions, ObjectLoader
from testbed.bpf.kinds import ProgramKind
from testbed.cost.contender import Contender, Spec, load_contender
from testbed.cost.counters import always_on
from testbed.cost.marks import NOTHING, Marks
from testbed.cost.result import (
    WITHOUT,
    Counted,
    Kind,
    Request,
    Result,
    Row,
    Samples,
    Scale,
    row_of_sizes,
    rows_of_rates,
    rows_of_times,
    sum_of_callbacks,
    untold,
)
from testbed.cost.rounds import Pass, Progress
from testbed.cost.traffic import BATCH
from testbed.lab.bench import Bench
from testbed.observe.callbacks import Op


def run_bench(
    specs: Sequence[Spec], abi: str, options: LoadOptions, request: Request, progress: Progress
) -> Result:
    """Measures sets. ``progress`` is called after each of the twice as many rounds as were asked for.

    Errors as `testbed.cost.contender.load_contender`; `TestbedError` where a connection fails.
    """
    start = time.monotonic()
    request = replace(request, connections=-(-request.connections // BATCH) * BATCH)
    samples = {letter: Samples() for letter in (WITHOUT, *(spec.letter for spec in specs))}
    notes: dict[str, None] = {}
    if always_on():
        notes["the sysctl kernel.bpf_stats_enabled is on: it takes some of the connections/s"] = None
    contenders: list[Contender] = []
    with ExitStack() as stack:
        loader = stack.enter_context(ObjectLoader())
        marks = stack.enter_context(Marks(loader))
        bench = stack.enter_context(Bench())
        for number, rounds in enumerate(request.rounds_of_passes()):
            with ExitStack() as of_pass:
                contenders = [load_contender(spec, loader, abi, options, of_pass) for spec in specs]
                made = Pass(bench, marks, contenders, request, number, of_pass)
                if why := made.measure(rounds, progress):
                    notes[f"no times of programs and callbacks: {why}"] = None
                for lane in made.lanes:
                    samples[lane.letter].rates.append(lane.rates)
                    samples[lane.letter].counted.append(lane.counted)
                    notes.update((f"{lane.letter}: {words}", None) for words in lane.play.notes)
    scale = _scale(samples[WITHOUT].all_counted)
    rows = list(rows_of_rates(samples))
    sums: dict[str, float] = {}
    if scale is not None:
        rows += _times(contenders, samples, request.connections, scale)
        for each in contenders:
            counted = samples[each.letter].all_counted
            sums[each.letter] = sum_of_callbacks(counted, each.sockops(), scale)
            notes.update((words, None) for words in untold(each.letter, counted, each.sockops()))
    rows += _sizes(contenders)
    took = time.monotonic() - start
    return Result(request, tuple(contenders), tuple(rows), scale, sums, took, tuple(notes))


def _scale(counted: Sequence[Counted]) -> Scale | None:
    """Of the lab in which a program does nothing. None where nothing was counted."""
    kernel = [runs.ns / runs.times for each in counted if (runs := each.programs[NOTHING]).times]
    marks = [
        sum(runs.ns for runs in each.callbacks.values()) / times
        for each in counted
        if (times := sum(runs.times for runs in each.callbacks.values()))
    ]
    return Scale(statistics.median(kernel), statistics.median(marks)) if kernel and marks else None


def _times(
    contenders: Sequence[Contender], samples: dict[str, Samples], connections: int, scale: Scale
) -> Iterator[Row]:
    counted = {each.letter: samples[each.letter].counted for each in contenders}
    ops = {
        op: Op(op).name for letter in counted for each in samples[letter].all_counted for op in each.callbacks
    }
    return rows_of_times(counted, _names(contenders), ops, connections, scale)


def _sizes(contenders: Sequence[Contender]) -> Iterator[Row]:
    for kind, of in ((Kind.VERIFIED, "verified"), (Kind.CODE, "machine_code")):
        for key, name in _names(contenders).items():
            sizes = {each.letter: getattr(each.sizes[key], of) for each in contenders if key in each.sizes}
            if any(sizes.values()):
                yield row_of_sizes(kind, name, sizes)


def _names(contenders: Sequence[Contender]) -> dict[str, str]:
    """What each key's program is called, sockops first: by all of its names, where they differ."""
    found: dict[str, dict[str, None]] = {}
    for each in contenders:
        for key, name in each.keys.items():
            found.setdefault(key, {})[name] = None
    first = sorted(found, key=lambda key: not key.startswith(ProgramKind.SOCKOPS.section))
    return {key: " / ".join(found[key]) for key in first}
