"""`testbed load`: loads objects as one set, and says of each program what the verifier said of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from testbed.bpf.elf.file import read_object
from testbed.bpf.elf.info import ObjectInfo
from testbed.bpf.elf.loader import LoadOptions, ObjectLoader
from testbed.bpf.elf.program_sets import as_program_set, fill_tail_calls, named_programs
from testbed.bpf.elf.request import ObjectReply, ProgramReply
from testbed.bpf.kinds import MapType
from testbed.bpf.program_set import ProgramFailure, ProgramSet
from testbed.bpf.verifier import processed_insns
from testbed.errors import ExitCode, UsageError
from testbed.logs import save_log

_TRACE, _WHOLE_TRACE, _STATISTICS = 1, 2, 4  # BPF_LOG_…: of the rejected path alone, of every path
_OF_MAPS = {MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS}
_INDENT = " " * 6


@dataclass(frozen=True)
class _Row:
    """One program: ``failure`` is None where it loaded, and where it was left out (``asked`` False)."""

    name: str
    reply: ProgramReply
    failure: ProgramFailure | None
    asked: bool


def load_report(paths: Sequence[Path], options: LoadOptions, console: Console, with_logs: bool) -> ExitCode:
    """Loads objects as one set and prints a line a program; of those that were rejected, why.

    ``with_logs`` keeps the verifier's whole log of each program, and names the file. Nothing stays
    loaded. `UsageError` for names that no object has, `ObjectError` for an object that is no good.
    """
    level = _STATISTICS | (_WHOLE_TRACE if with_logs else _TRACE)
    with ObjectLoader() as loader:
        _check_names(loader.open(paths), options)
        plain = replace(options, log_level=level, tail_calls=())
        files = [read_object(path) for path in paths]
        with loader.load(files, plain) as reply, as_program_set(reply, files, plain) as program_set:
            objects = _rows(reply.replies, program_set.failures)
            rows = [row for of_object in objects for row in of_object]
            for path, of_object in zip(paths, objects, strict=True):
                if len(paths) > 1:
                    console.print(Text(str(path), style="bold"), soft_wrap=True)
                for line in _lines(of_object, rows, with_logs):
                    console.print(line, soft_wrap=True)
            for line in _tail_calls(program_set, options):
                console.print(line, soft_wrap=True)
    asked = sum(row.asked for row in rows)
    rejected = sum(row.failure is not None for row in rows)
    if not asked and (options.only or options.skip):
        raise UsageError("load the objects", "the options leave no program to load")
    if rejected:
        verb = "was" if rejected == 1 else "were"
        console.print(Text(f"{rejected} of {_programs(asked)} {verb} rejected", style="bold red"))
        return ExitCode.FAILED
    console.print(Text(f"{_programs(asked)} loaded", style="bold green"))
    return ExitCode.PASSED


def _programs(count: int) -> str:
    return f"{count} program{'' if count == 1 else 's'}"


def _check_names(infos: Iterable[ObjectInfo], options: LoadOptions) -> None:
    """`UsageError` for what no object has."""
    programs = [program.name for info in infos for program in info.programs]
    arrays = [each.name for info in infos for each in info.maps if each.map_type == MapType.PROG_ARRAY]
    outer = [
        each.name for info in infos for each in info.maps if each.map_type in _OF_MAPS and each.inner is None
    ]
    for option, given, kind, there in (
        ("--program", options.only, "program", programs),
        ("--skip", options.skip, "program", programs),
        ("--inner-map", options.inner_maps, "map of maps without a description", outer),
        ("--tail-call", [name for name, _, _ in options.tail_calls], "program array", arrays),
        ("--tail-call", [program for _, _, program in options.tail_calls], "program", programs),
    ):
        for name in given:
            if name not in there:
                names = ", ".join(dict.fromkeys(there)) or "none"
                raise UsageError(f"use {option} {name}", f"no object has such a {kind}; there are: {names}")


def _rows(replies: Sequence[ObjectReply], failures: Iterable[ProgramFailure]) -> list[list[_Row]]:
    """The programs of each object."""
    rows: list[list[_Row]] = [[] for _ in replies]
    by_name = {failure.name: failure for failure in failures}
    for number, name, program in named_programs(replies):
        failure = by_name.get(name)
        rows[number].append(_Row(name, program, failure, failure is not None or program["fd"] is not None))
    return rows


def _lines(rows: Sequence[_Row], everything: Sequence[_Row], with_logs: bool) -> Iterator[Text]:
    """A line a program, as wide as those of all objects, and what belongs below it."""
    cells = [(row.name, row.reply["section"], _count(row)) for row in everything]
    name, section, count = (
        (max(map(len, column)) for column in zip(*cells, strict=True)) if cells else (0, 0, 0)
    )
    for row in rows:
        head = f"{row.name:<{name}}  {row.reply['section']:<{section}}  "
        if row.failure:
            yield _marked("FAIL", "bold red", head + row.failure.reason)
            yield from (Text(f"{_INDENT}{line}") for line in row.failure.details.splitlines())
            if row.failure.log.strip():
                yield _log(row, row.failure.log)
        elif not row.asked:
            yield _marked("–", "yellow", f"{head}left out")
        else:
            processed = processed_insns(row.reply["log"])
            told = "" if processed is None else f"  processed {processed}"
            yield _marked("ok", "green", f"{head}{_count(row):>{count}} insns{told}")
            if with_logs:
                yield _log(row, row.reply["log"])


def _count(row: _Row) -> str:
    return str(row.reply["instructions"])


def _marked(word: str, style: str, text: str) -> Text:
    return Text.assemble((f"{word:<6}", style), text)


def _log(row: _Row, log: str) -> Text:
    return Text(f"{_INDENT}the verifier's log is in {save_log(f'verifier-{row.name}', log)}", style="dim")


def _tail_calls(program_set: ProgramSet, options: LoadOptions) -> Iterator[Text]:
    """Fills the program arrays with what was loaded. `UsageError` where the kernel refuses."""
    for each in options.tail_calls:
        name, index, program = each
        text = f"tail call {name}:{index}={program}"
        if program not in program_set.programs:
            yield _marked("–", "yellow", f"{text}  the program was not loaded")
            continue
        one = replace(options, tail_calls=(each,))
        fill_tail_calls(one, program_set.programs, program_set.maps)
        yield _marked("ok", "green", text)
