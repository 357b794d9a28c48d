"""ELF objects as a `ProgramSet`: the same interface as the C sources that bcc loads."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path

from testbed.bpf import libbpf
from testbed.bpf.elf.file import ObjectError, ObjectFile, license_of, read_object
from testbed.bpf.elf.info import ObjectInfo, section_of
from testbed.bpf.elf.loader import LoadOptions, ObjectLoader, Reply
from testbed.bpf.elf.request import ObjectReply, ProgramReply
from testbed.bpf.kinds import MapType, kind_of
from testbed.bpf.maps import Map
from testbed.bpf.program_set import Program, ProgramFailure, ProgramSet
from testbed.bpf.types.btf_entries import damaged
from testbed.bpf.types.dwarf import struct_layouts
from testbed.bpf.types.layout import Type
from testbed.bpf.variables import MapVariables, Place
from testbed.bpf.verifier import parse_verifier_log
from testbed.errors import UsageError, errno_name


def load_objects(
    loader: ObjectLoader, paths: Sequence[Path], options: LoadOptions | None = None
) -> ProgramSet:
    """Loads objects as one set, as many of their programs as the kernel takes.

    `ObjectError` when an object as a whole is no good. Programs that were rejected are in the set's
    ``failures``; a set without any program is returned too.
    """
    options = options or LoadOptions()
    if not paths:
        raise UsageError("load objects", "there is none")
    files = [read_object(path) for path in paths]
    named: set[tuple[int, int]] = set()
    for path in paths:
        status = path.stat()
        if (status.st_dev, status.st_ino) in named:
            raise UsageError(f"load {path}", "it is named twice: its programs would be attached twice")
        named.add((status.st_dev, status.st_ino))
    with loader.load(files, options) as reply:
        return as_program_set(reply, files, options)


def as_program_set(reply: Reply, files: Sequence[ObjectFile], options: LoadOptions) -> ProgramSet:
    """What a loader replied as a set, which takes the reply's descriptors. Fills its tail calls."""
    paths = tuple(file.path for file in files)
    with ExitStack() as stack:
        programs = dict(_programs(reply))
        maps, sections = _maps(reply)
        _check_names(reply, options)
        for file, described in zip(files, reply.replies, strict=True):
            own = [each["fd"] for each in described["programs"] if each["fd"] is not None]
            _check_license(file, [reply.fds[number] for number in own])
        fill_tail_calls(options, programs, maps)
        stack.push(reply.take())
        return ProgramSet(
            programs=programs,
            maps=maps,
            variables=MapVariables(partial(_places, sections)),
            release=stack.pop_all().close,
            diagnostics="".join(each["said"] for each in reply.replies),
            origin=f"{', '.join(path.name for path in paths)} by libbpf",
            failures=tuple(_failures(reply, paths)),
            assumed=tuple(dict.fromkeys(name for each in reply.replies for name in each["assumed"])),
            debug_structs=cache(partial(_debug_structs, paths)),
        )


def named_programs(replies: Sequence[ObjectReply]) -> Iterator[tuple[int, str, ProgramReply]]:
    """Every program of a set, loaded or not: (number of its object, name, itself).

    Of several with one name the first keeps it, others have a number behind it.
    """
    counts: dict[str, int] = {}
    for number, described in enumerate(replies):
        for program in described["programs"]:
            count = counts[program["name"]] = counts.get(program["name"], 0) + 1
            yield number, program["name"] if count == 1 else f"{program['name']}#{count}", program


def _programs(reply: Reply) -> Iterator[tuple[str, Program]]:
    for _, name, program in named_programs(reply.replies):
        if program["fd"] is not None:
            kind = kind_of(program["prog_type"], program["attach_type"], program["section"])
            yield name, Program(name, kind, reply.fds[program["fd"]], program["section"])


_TAIL_CALL = 12  # bpf_tail_call of enum bpf_func_id
_Sections = list[tuple[ObjectInfo, dict[str, tuple[str, int]]]]


def _maps(reply: Reply) -> tuple[dict[str, Map], _Sections]:
    """The maps of the set by name, and for each object the name and
    descriptor of those that hold its variables, by section.
    """
    maps: dict[str, Map] = {}
    sections: _Sections = []
    for described, info in zip(reply.replies, reply.infos, strict=True):
        own: dict[str, tuple[str, int]] = {}
        for each in described["maps"]:
            if each["fd"] is None:
                continue
            name, fd = each["name"], reply.fds[each["fd"]]
            if each["internal"]:
                own[section_of(name)] = name, fd
            elif name not in maps:
                maps[name] = Map(name, fd, partial(info.map_types, name))
        sections.append((info, own))
    return maps, sections


def _places(sections: _Sections) -> dict[str, tuple[Place, ...]]:
    """Where each variable is: in all objects that have one of its name."""
    places: dict[str, tuple[Place, ...]] = {}
    for info, named in sections:
        maps = {section: Map(name, fd) for section, (name, fd) in named.items()}
        for variable in info.all_variables():
            if variable.section in maps:
                constant = variable.section.startswith(".rodata")
                where = maps[variable.section]
                if variable.offset + variable.size > where.value_size:
                    raise damaged(f"variable {variable.name} ends behind its section {variable.section}")
                place = Place(where, variable.offset, variable.size, variable.type, constant)
                places[variable.name] = (*places.get(variable.name, ()), place)
    return places


def _debug_structs(paths: tuple[Path, ...], names: tuple[str, ...]) -> dict[str, Type]:
    """Of the first object that has each."""
    found: dict[str, Type] = {}
    for path in paths:
        if missing := set(names) - set(found):
            found.update(struct_layouts(path, missing))
    return found


def _failures(reply: Reply, paths: Sequence[Path]) -> Iterator[ProgramFailure]:
    for number, name, program in named_programs(reply.replies):
        if program["errno"]:
            yield _failure(paths[number], name, program)


def _failure(path: Path, name: str, program: ProgramReply) -> ProgramFailure:
    if program["log"].strip():
        report = parse_verifier_log(program["log"])
        reason, details = report.reason, report.lines(sorted(path.parent.glob("*.[ch]")))
        if program["errno"] == errno.EINVAL and _TAIL_CALL in program["helpers"] and not report.instruction:
            reason = "the verifier found nothing: is its program array used by a program of another kind?"
    else:
        first, *_ = program["said"].splitlines() or [""]
        reason, details = _plain(first, program["section"]), ""
    return ProgramFailure(
        name=name,
        path=path,
        section=program["section"],
        errno=program["errno"],
        reason=f"{errno_name(program['errno'])}: {reason}",
        details=details,
        log=program["log"] or program["said"],
    )


def _plain(said: str, section: str) -> str:
    if "missing BPF prog type" in said:
        return f"libbpf knows no programs of the section {section!r}"
    return said or "libbpf said nothing"


def _check_names(reply: Reply, options: LoadOptions) -> None:
    """A misspelt name would load nothing, or what was to be left out."""
    maps = {each["name"] for described in reply.replies for each in described["maps"]}
    for wrong in (name for name in options.inner_maps if name not in maps):
        raise UsageError(f"describe the maps in {wrong}", "no object has a map of that name")
    sized = {
        each["name"] for described in reply.replies for each in described["maps"] if not each["internal"]
    }
    for wrong in (name for name in options.max_entries if name not in sized):
        why = "no object has a map of that name"
        raise UsageError(f"set the size of {wrong}", why, f"there are {', '.join(sorted(sized))}")
    names = {program["name"] for described in reply.replies for program in described["programs"]}
    for wrong in (name for name in (*options.only, *options.skip) if name not in names):
        raise UsageError(
            f"choose the program {wrong}", "no object has it", f"there are {', '.join(sorted(names))}"
        )


def _check_license(file: ObjectFile, program_fds: Sequence[int]) -> None:
    """The kernel takes an object without a license for a proprietary one, which few mean."""
    if not all(map(libbpf.is_gpl_compatible, program_fds)) and license_of(file) is None:
        raise ObjectError(
            f"load the object {file.path}",
            "it has no license section",
            'add: char _license[] SEC("license") = "GPL";',
        )


def fill_tail_calls(options: LoadOptions, programs: Mapping[str, Program], maps: Mapping[str, Map]) -> None:
    """Puts programs into program arrays. `UsageError` for what is not there."""
    for name, index, program in options.tail_calls:
        what = f"fill the tail call {name}:{index}={program}"
        if name not in maps or maps[name].type != MapType.PROG_ARRAY:
            arrays = [each.name for each in maps.values() if each.type == MapType.PROG_ARRAY]
            why = "the set has no program array of that name"
            raise UsageError(what, why, f"it has {', '.join(arrays) or 'none'}")
        if program not in programs:
            raise UsageError(what, f"no program {program} was loaded; there are {', '.join(programs)}")
        try:
            fd = programs[program].fd.to_bytes(4, "little")
            maps[name].set(index.to_bytes(4, "little"), fd)
        except OSError as error:
            raise UsageError(what, errno_name(error.errno or 0)) from error
        except OverflowError as error:
            raise UsageError(what, "an index is a number from 0 to 4294967295") from error
