"""`testbed inspect`: what is in an object, and what it needs of the kernel."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from testbed.bpf.elf.file import ObjectError, ObjectFile, license_of, read_object
from testbed.bpf.elf.info import MapInfo, ObjectInfo, ProgramInfo
from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.elf.needs import can_ask, needs_of
from testbed.bpf.elf.symbols import sections_and_symbols
from testbed.bpf.kinds import map_type_name
from testbed.bpf.probe import program_type_name
from testbed.bpf.types.btf import BtfError, Variable
from testbed.bpf.types.layout import Opaque

# BPF_F_… of BPF_MAP_CREATE by bit: include/uapi/linux/bpf.h (Linux 6.18)
_FLAGS = (
    *("NO_PREALLOC", "NO_COMMON_LRU", "NUMA_NODE", "RDONLY", "WRONLY", "STACK_BUILD_ID", "ZERO_SEED"),
    *("RDONLY_PROG", "WRONLY_PROG", "CLONE", "MMAPABLE", "PRESERVE_ELEMS", "INNER_MAP", "LINK", "PATH_FD"),
    *("VTYPE_BTF_OBJ_FD", "TOKEN_FD", "SEGV_ON_FAULT", "NO_USER_CONV"),
)
_OF_MAPS = {"array_of_maps", "hash_of_maps"}
_NO_BTF = "bytes (no BTF)"
_VARIABLES = re.compile(r"\.(bss|data|rodata)(\.|$)")
_LARGEST = 4096  # bytes of a variable whose initial value is decoded
_WIDTH = 100  # where nobody tells how wide a line may be
_STATES = {True: ("ok", "green"), False: ("LACKS", "bold red"), None: ("–", "yellow")}
# Columns: the key of what stands in it, and its head.
_PROGRAMS = {
    "name": "name",
    "section": "section",
    "type": "type",
    "attaches_to": "attaches to",
    "instructions": "instructions",
}
_NAMED = {"name": "name", "type": "type"}
_MAPS = _NAMED | {"key_size": "key", "value_size": "value", "max_entries": "entries", "flags": "flags"}
_GLOBALS = _NAMED | {"section": "section", "size": "bytes", "initial": "initial value"}

About = dict[str, Any]


def inspect_objects(paths: Sequence[Path], console: Console, as_json: bool) -> None:
    """Prints what is in each object, or one JSON list of it. `ObjectError` at the first that is no good."""
    found = []
    with ObjectLoader() as loader:
        for number, path in enumerate(paths):
            file = read_object(path)
            (info,) = loader.open([path])
            try:
                about = about_object(file, info)
            except BtfError as error:
                raise ObjectError(f"read the object {path}", f"its BTF is damaged: {error.why}") from error
            if as_json:
                found.append(about)
                continue
            if number:
                console.print()
            for line in _lines(about, console.width if console.is_terminal else _WIDTH):
                console.print(line, soft_wrap=True)
    if as_json:
        console.out(json.dumps(found, indent=2, default=_text), highlight=False)


def about_object(file: ObjectFile, info: ObjectInfo) -> About:
    """All that is printed of an object, as JSON has it; C types are text."""
    sections, symbols = sections_and_symbols(file)
    variables = info.all_variables() if info.btf else symbols
    return {
        "file": str(file.path),
        "size": len(file.data),
        "license": license_of(file),
        "btf": ".BTF" in sections,
        "dwarf": ".debug_info" in sections,
        "remarks": info.said.splitlines(),
        "programs": [_about_program(each) for each in info.programs],
        "maps": [_about_map(info, each) for each in info.maps if not each.internal],
        "globals": [_about_variable(each, sections) for each in variables],
        "asked": can_ask(),
        "needs": [vars(need) for need in needs_of(info, file.data)],
    }


def _about_program(program: ProgramInfo) -> About:
    nothing = "nothing in a lab" if program.prog_type else "unknown section"
    return {
        "name": program.name,
        "section": program.section,
        "type": program_type_name(program.prog_type),
        "prog_type": program.prog_type,
        "attach_type": program.attach_type,
        "attaches_to": program.kind.target.value if program.kind else nothing,
        "instructions": program.instructions,
    }


def _about_map(info: ObjectInfo, each: MapInfo) -> About:
    key, value = info.map_types(each.name)
    inner = None
    if each.inner:
        kind, *sizes, flags = each.inner
        names = ("key_size", "value_size", "max_entries")
        inner = {"type": map_type_name(kind), **dict(zip(names, sizes, strict=True)), "flags": _flags(flags)}
    return {
        "name": each.name,
        "type": each.type_name,
        "map_type": each.map_type,
        "key_size": each.key_size,
        "value_size": each.value_size,
        "max_entries": each.max_entries,
        "flags": _flags(each.flags),
        "inner": inner,
        "key": key.describe() if key else None,
        "value": value.describe() if value else None,
    }


def _flags(flags: int) -> list[str]:
    """``BPF_F_NO_PREALLOC``; a bit without a name as a number."""
    bits = [bit for bit in range(flags.bit_length()) if flags >> bit & 1]
    return [f"BPF_F_{_FLAGS[bit]}" if bit < len(_FLAGS) else f"{1 << bit:#x}" for bit in bits]


def _about_variable(variable: Variable, sections: Mapping[str, bytes]) -> About:
    content = sections.get(variable.section, b"")
    initial = None
    if variable.size <= _LARGEST:
        data = content[variable.offset : variable.offset + variable.size] or bytes(variable.size)
        initial = data.hex() if isinstance(variable.type, Opaque) else variable.type.decode(data)
    return {
        "name": variable.name,
        "type": variable.type.name,
        "section": variable.section,
        "offset": variable.offset,
        "size": variable.size,
        "initial": initial,
    }


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="backslashreplace")


def _lines(about: About, width: int) -> Iterator[Text]:
    yield _line(about["file"], "bold")
    words = [f"{about['size']:,} bytes"]
    words.append("no license" if about["license"] is None else f"license {about['license']}")
    words += [f"{name} {'yes' if about[name.lower()] else 'no'}" for name in ("BTF", "DWARF")]
    yield _line(f"  {', '.join(words)}")
    yield from (_line(f"  {remark}", "yellow") for remark in about["remarks"])
    yield from _heading("programs" if about["programs"] else "no programs")
    yield from _table(_PROGRAMS, about["programs"])
    yield from _heading("maps" if about["maps"] else "no maps")
    shown: dict[str, str] = {}
    for number, line in enumerate(_table(_MAPS, about["maps"])):
        yield line
        if number:
            yield from (_line(f"      {text}") for text in _layouts(about["maps"][number - 1], shown))
    yield from _heading("globals" if about["globals"] else "no globals")
    for line in _table(_GLOBALS, about["globals"]):
        line.truncate(width, overflow="ellipsis")
        yield line
    yield from _need_lines(about, width)


def _line(text: str, style: str = "") -> Text:
    """Names come out of a file: what a terminal would obey is not among them."""
    return Text("".join(char if char.isprintable() else "�" for char in text.rstrip()), style=style)


def _heading(text: str) -> Iterator[Text]:
    yield Text()
    yield _line(text, "bold cyan")


def _aligned(rows: Sequence[Sequence[object]]) -> list[str]:
    """Rows in columns; numbers stand to the right."""
    columns = list(zip(*rows, strict=True))
    widths = [max(len(str(cell)) for cell in column) for column in columns]
    numbers = [any(isinstance(cell, int) for cell in column) for column in columns]
    return [
        "  ".join(
            str(cell).rjust(width) if number else str(cell).ljust(width)
            for cell, width, number in zip(row, widths, numbers, strict=True)
        )
        for row in rows
    ]


def _table(columns: Mapping[str, str], rows: Sequence[About]) -> Iterator[Text]:
    """The head, then a line a row; nothing where there are none."""
    if rows:
        first, *others = _aligned(
            [list(columns.values()), *([_cell(row, key) for key in columns] for row in rows)]
        )
        yield _line(f"  {first}", "dim")
        yield from (_line(f"  {each}") for each in others)


def _cell(row: About, key: str) -> object:
    if key == "initial":
        return _shown(row[key])
    return " ".join(row[key]) if key == "flags" else row[key]


def _layouts(each: About, shown: dict[str, str]) -> Iterator[str]:
    """What key and value look like; ``shown`` has the structs that are printed already, and where."""
    name, inner = each["name"], each["inner"]
    if inner:
        yield "of {type}: key {key_size}, value {value_size}, entries {max_entries}".format(**inner)
    elif each["type"] in _OF_MAPS:
        yield f"of maps that it does not describe: load it with --inner-map {name}=TYPE:KEY:VALUE:ENTRIES"
    elif each["key"] or each["value"]:
        for part in ("key", "value"):
            first, *fields = (each[part] or _NO_BTF).split("\n")
            if fields and (before := shown.setdefault(each[part], name)) != name:
                first, fields = f"{first}, as in {before}", []
            yield f"{part:<7}{first}"
            yield from (f"{'':<7}{field}" for field in fields)
    elif each["key_size"] or each["value_size"]:
        yield _NO_BTF


def _shown(value: object) -> str:
    """An initial value in one line, as C has it."""
    if isinstance(value, list):
        return f"{{{', '.join(map(_shown, value)) if _filled(value) else ''}}}"
    if isinstance(value, dict):
        fields = (f".{name} = {_shown(each)}" for name, each in value.items() if _filled(each))
        return f"{{{', '.join(fields)}}}"
    if isinstance(value, bytes):
        return json.dumps(_text(value), ensure_ascii=False)
    return "…" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _filled(value: object) -> bool:
    """Whether any of it is not zero."""
    if isinstance(value, list | dict):
        return any(map(_filled, value.values() if isinstance(value, dict) else value))
    return any(value) if isinstance(value, bytes) else bool(value)


def _need_lines(about: About, width: int) -> Iterator[Text]:
    why = "" if about["asked"] else "   (not asked: needs root)"
    yield from _heading(f"what it needs of Linux {platform.release()}{why}")
    everybody = tuple(program["name"] for program in about["programs"])
    rows = [
        [need["kind"], need["name"], "" if need["by"] == everybody else ", ".join(need["by"])]
        for need in about["needs"]
    ]
    for need, text in zip(about["needs"], _aligned(rows) if rows else [], strict=True):
        word, style = _STATES[need["present"]]
        remark = "" if need["present"] is not None or not about["asked"] else "   (cannot be asked)"
        line = _line(f"  {word:<7}{text}")
        line.truncate(width - len(remark), overflow="ellipsis")
        line.stylize(style, 2, 2 + len(word))
        yield line + Text(remark)
    if lacking := sum(need["present"] is False for need in about["needs"]):
        yield _line(f"  this kernel lacks {lacking} of {len(about['needs'])}", "bold red")
