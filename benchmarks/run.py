"""Every figure of docs/performance.md: one table, all contenders of a section interleaved in one run.

usage: sudo .venv/bin/python benchmarks/run.py [--quick] [--json FILE] [--markdown FILE] [--only SECTION[,…]]

Medians with min–max; noise is half of the quartile spread, as a part of the median. Ratios are of medians.
Exit codes: 0 measured (targets may be missed: the table says so), 2 usage, 3 the machine cannot do it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: its own folder is in the place of the checkout's
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console

from benchmarks import latency, objects, rate, start, suite, topologies
from benchmarks.machine import cpu_times, machine, steal, versions
from benchmarks.measure import Measured, Options, Section, measure
from benchmarks.show import as_json, markdown, print_section, verdict
from testbed.errors import ExitCode, TestbedError, UsageError
from testbed.kernel.privileges import need_root
from testbed.report.outputs import need_writable

SECTIONS: Sequence[Section] = (
    *topologies.SECTIONS,
    *objects.SECTIONS,
    *rate.SECTIONS,
    *latency.SECTIONS,
    *suite.SECTIONS,
    *start.SECTIONS,
)
NAMES = ", ".join(section.name for section in SECTIONS)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks/run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="at most half a minute instead of five")
    parser.add_argument("--only", metavar="SECTION[,…]", default="", help=f"of {NAMES}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, with every sample")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table as Markdown too")
    parser.add_argument("--rounds", type=_positive, metavar="N", help="of every section, instead of its own")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the order within the rounds")
    parser.add_argument(
        "--munet", metavar="PYTHON", default="", help="a Python that has munet, if not this one"
    )
    return parser


def chosen(only: str) -> list[Section]:
    """The sections of a list of names, in the table's order; all of none. `UsageError` names what is none."""
    names = [name.strip() for name in only.split(",")] if only else [section.name for section in SECTIONS]
    known = {section.name for section in SECTIONS}
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"read --only {only}", f"{unknown[0]!r} is no section: choose from {NAMES}")
    return [section for section in SECTIONS if section.name in names]


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Measures and prints section by section; writes the files at the end."""
    sections = chosen(arguments.only)
    for file in (arguments.json, arguments.markdown):
        if file is not None:
            need_writable(file)
    topologies.need_munet(arguments.munet)
    need_root("measure")
    options = Options(arguments.quick, arguments.rounds, arguments.seed, arguments.munet)
    about: dict[str, Any] = {"machine": machine(), "versions": versions(options.munet)}
    facts = _facts(about)
    for fact in facts:
        console.print(fact, style="dim", highlight=False)
    begin, ticks, measured = time.monotonic(), cpu_times(), list[Measured]()
    for section in sections:
        measured.append(measure(section, options))
        print_section(console, measured[-1])
    seconds, stolen = time.monotonic() - begin, steal(ticks)
    end = f"{seconds:.0f} s; {100 * stolen:.1f} % of the CPUs' time went to other machines (steal)"
    _print_end(console, measured, end)
    if arguments.json is not None:
        about |= {"quick": options.quick, "seed": options.seed, "seconds": seconds, "steal": stolen}
        about["load_average_after"] = machine()["load_average"]
        about["sections"] = [as_json(each) for each in measured]
        arguments.json.write_text(json.dumps(about, indent=1), encoding="utf-8")
    if arguments.markdown is not None:
        arguments.markdown.write_text(markdown(measured, [*facts, end]), encoding="utf-8")


def _facts(about: dict[str, Any]) -> list[str]:
    here = about["machine"]
    load = " ".join(f"{each:.2f}" for each in here["load_average"])
    return [
        f"{here['kernel']} · {here['cpu']} · {here['cores']} cores · load average {load}",
        " · ".join(f"{name} {version}" for name, version in about["versions"].items()),
    ]


def _print_end(console: Console, measured: Sequence[Measured], end: str) -> None:
    missed, met, unknown = verdict(measured)
    for line in missed:
        console.print(f"missed: {line}", style="bold red", highlight=False, markup=False)
    words = f"targets: {met} met, {len(missed)} missed"
    console.print(f"{words}{f', {unknown} not measured' if unknown else ''}", highlight=False)
    console.print(end, style="dim", highlight=False)


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit code; an error is one message."""
    arguments = _parser().parse_args(words)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    try:
        run(arguments, console)
    except TestbedError as error:
        sys.stderr.write(f"benchmarks: cannot {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("benchmarks: interrupted\n")
        return ExitCode.INTERRUPTED
    return ExitCode.PASSED


if __name__ == "__main__":
    sys.exit(main())
