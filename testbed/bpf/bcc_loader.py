"""Loads C sources with bcc: compiled at run time, no build step. What is unchanged is compiled once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from testbed.acquired import acquired
from testbed.bpf import libbpf
from testbed.bpf.bcc_kept import keep_code, kept_code, kept_path
from testbed.bpf.bytecode import load_code, set_code
from testbed.bpf.diagnostics import Captured, captured_stderr, compiler_digest
from testbed.bpf.elf.kept import alone
from testbed.bpf.features import kernel_btf
from testbed.bpf.headers import Headers, find_headers
from testbed.bpf.kinds import ProgramKind
from testbed.bpf.maps import Map
from testbed.bpf.program_set import Program, ProgramSet
from testbed.bpf.source import expand
from testbed.bpf.types.btf import parse_btf
from testbed.bpf.types.layout import Struct, Type
from testbed.bpf.variables import MapVariables, Place
from testbed.bpf.verifier import parse_verifier_log
from testbed.errors import MachineError, ProgramError, need_descriptors
from testbed.logs import save_log

_DEBUG_BTF = 0x20  # bcc: load line information with a program, so that the verifier names the C line

_DESCRIPTORS = 48  # of the compiler, the maps and the programs: without one, bcc 0.26 crashes


@dataclass(frozen=True)
class SourceSet:
    """C sources that make one set: which functions are programs and of what kind."""

    name: str
    sources: tuple[Path, ...]
    include: tuple[Path, ...]
    programs: tuple[tuple[str, ProgramKind], ...]
    maps: tuple[str, ...]
    globals_map: str | None = None
    defines: tuple[str, ...] = ()

    def files(self) -> tuple[Path, ...]:
        """Every file whose lines an error may name."""
        return (*self.sources, *(header for folder in self.include for header in sorted(folder.glob("*.h"))))


def _import_bcc() -> Any:
    try:
        import bcc
    except (ImportError, OSError) as error:  # OSError: its shared library is missing
        raise MachineError(
            "import bcc",
            str(error),
            "apt-get install python3-bpfcc, and use a virtual environment made from /usr/bin/python3"
            " with --system-site-packages (./tb does both)",
        ) from error
    if not hasattr(bcc, "BPF"):
        raise MachineError(
            "import bcc",
            f"{bcc.__file__} is the unrelated PyPI package of that name",
            "pip uninstall bcc; apt-get install python3-bpfcc",
        )
    return bcc


def bcc_version() -> str:
    """The version of the bcc that would be used. `MachineError` when there is none."""
    bcc = _import_bcc()
    return f"{getattr(bcc, '__version__', 'of unknown version')} in {Path(bcc.__file__).parent}"


@contextmanager
def _kernel_source(headers: Headers) -> Iterator[None]:
    """bcc takes the tree from the environment, and from nowhere else."""
    before = os.environ.get("BCC_KERNEL_SOURCE")
    os.environ["BCC_KERNEL_SOURCE"] = str(headers.source)
    try:
        yield
    finally:
        if before is None:
            del os.environ["BCC_KERNEL_SOURCE"]
        else:
            os.environ["BCC_KERNEL_SOURCE"] = before


def load(source_set: SourceSet) -> ProgramSet:
    """Compiles and loads a set. `ProgramError` for what is wrong with it, `MachineError` for the machine.

    What has been compiled and loaded before is not compiled again (`testbed.bpf.bcc_kept`).
    """
    kernel_btf()
    text, headers = expand(source_set.sources, source_set.include), find_headers()
    flags = [
        "-DTESTBED_BCC",
        "-Werror=implicit-function-declaration",
        *(f"-D{define}" for define in source_set.defines),
        *headers.flags,
    ]
    path = kept_path(text, flags, headers)
    if (made := _load_again(source_set, path)) is not None:
        return made
    with alone(path.parent if path is not None else None):
        if (made := _load_again(source_set, path)) is not None:
            return made
        return _compile_and_load(source_set, text, flags, headers, path)


def _load_again(source_set: SourceSet, path: Path | None) -> ProgramSet | None:
    """What is kept there; None where it cannot be used: then the compiler says why, if there is a reason."""
    code = kept_code(path) if path is not None else None
    if code is None or not {name for name, _ in source_set.programs} <= set(code.programs):
        return None
    with ExitStack() as stack:
        try:
            programs, fds = load_code(code, source_set.programs, stack)
        except OSError:
            return None
        if not set(source_set.maps) <= set(fds):
            return None
        maps = {name: _map(fds[name], name) for name in source_set.maps}
        places = _variables(fds, source_set.globals_map)
        loaded = {name: Program(name, kind, programs[name]) for name, kind in source_set.programs}
        variables, release = MapVariables(lambda: places), stack.pop_all().close
        return ProgramSet(loaded, maps, variables, release, code.diagnostics, _origin(source_set))


def _compile_and_load(
    source_set: SourceSet, text: str, flags: list[str], headers: Headers, path: Path | None
) -> ProgramSet:
    bcc = _import_bcc()
    module, diagnostics = _compile(bcc, source_set, text, flags, headers)
    try:
        programs = {
            name: Program(name, kind, _load_program(module, source_set, name, kind))
            for name, kind in source_set.programs
        }
        names = (*source_set.maps, *([source_set.globals_map] if source_set.globals_map else []))
        fds = {name: _map_fd(bcc, module, name) for name in names}
        maps = {name: _map(fds[name], name) for name in source_set.maps}
        places = _variables(fds, source_set.globals_map)
        if path is not None:
            code = {name: module.dump_func(name.encode()) for name in programs}
            license_ = bcc.lib.bpf_module_license(module.module).decode()
            if (made := set_code(code, fds, license_, diagnostics)) is not None:
                keep_code(path, made)
    except BaseException:
        module.cleanup()
        raise
    variables = MapVariables(lambda: places)
    return ProgramSet(programs, maps, variables, module.cleanup, diagnostics, _origin(source_set))


def _origin(source_set: SourceSet) -> str:
    return f"{source_set.name} ({', '.join(path.name for path in source_set.sources)}) by bcc"


def _compile(
    bcc: Any, source_set: SourceSet, text: str, flags: list[str], headers: Headers
) -> tuple[Any, str]:
    need_descriptors(_DESCRIPTORS, f"compile {source_set.name} with bcc")
    said = Captured()
    try:
        with captured_stderr(said), _kernel_source(headers):
            module = bcc.BPF(text=text.encode(), cflags=flags, debug=_DEBUG_BTF)
            acquired("module", source_set.name)
    except Exception as error:
        _reraise_unless_of_bcc(error)
        output = said.text or str(error)
        digest = compiler_digest(output)
        raise ProgramError(
            f"compile {source_set.name} with bcc",
            digest.reason,
            f"mend that line; all of the output is in {save_log(f'compile-{source_set.name}', output)}",
            digest.lines,
        ) from error
    return module, said.text


def _load_program(module: Any, source_set: SourceSet, name: str, kind: ProgramKind) -> int:
    said = Captured()
    try:
        with captured_stderr(said):
            fd = int(module.load_func(name.encode(), kind.prog_type, attach_type=kind.attach_type).fd)
            acquired("program", fd)
            return fd
    except Exception as error:
        _reraise_unless_of_bcc(error)
        report = parse_verifier_log(said.text)
        raise ProgramError(
            f"load {name} ({kind.section})",
            f"{str(error).rpartition(': ')[2]}: {report.reason}",
            f"the whole log is in {save_log(f'verifier-{name}', said.text)}",
            report.lines(source_set.files()),
        ) from error


def _reraise_unless_of_bcc(error: Exception) -> None:
    """bcc raises nothing narrower than `Exception` itself; what is narrower is not its word."""
    if type(error) is not Exception:
        raise error


def _map_fd(bcc: Any, module: Any, name: str) -> int:
    # module[name] refuses the map types that bcc has no class for (sk_storage, sockhash)
    fd = int(bcc.lib.bpf_table_fd(module.module, name.encode()))
    if fd < 0:
        raise ProgramError(f"find the map {name}", "the sources do not define it")
    acquired("map", fd)
    return fd


def _map(fd: int, name: str) -> Map:
    """A map with the types that the kernel has for it: of those that bcc gives it none, bytes."""
    return Map(name, fd, partial(_kernel_types, fd))


def _kernel_types(fd: int) -> tuple[Type | None, Type | None]:
    described = libbpf.map_btf(fd)
    if described is None:
        return None, None
    blob, key_id, value_id = described
    btf = parse_btf(blob)
    return btf.type(key_id), btf.type(value_id)


def _variables(fds: Mapping[str, int], name: str | None) -> dict[str, tuple[Place, ...]]:
    """bcc has no global variables: they are the fields of an array map's only value."""
    if name is None:
        return {}
    array = _map(fds[name], name)
    if not isinstance(array.value_type, Struct):
        raise ProgramError(f"find the variables in {name}", "its value has no BTF, or is no struct")
    found = {field.name: array.value_type.field_at(field.name) for field in array.value_type.fields}
    return {each: (Place(array, offset, kind.size, kind),) for each, (offset, kind) in found.items()}
