"""Loads C sources with bcc: compiled at run time, no build step."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.bpf.diagnostics import Captured, captured_stderr, compiler_digest, verifier_digest
from testbed.bpf.features import kernel_btf
from testbed.bpf.headers import Headers, find_headers
from testbed.bpf.kinds import ProgramKind
from testbed.bpf.maps import Map
from testbed.bpf.program_set import Program, ProgramSet
from testbed.bpf.source import expand
from testbed.errors import MachineError, ProgramError
from testbed.logs import save_log

_DEBUG_BTF = 0x20  # bcc: load line information with a program, so that the verifier names the C line


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


class _ArrayVariables(MutableMapping[str, bytes]):
    """Global variables that live in the fields of an array map's only value."""

    def __init__(self, array: Map, value_type: Any) -> None:
        self._array = array
        self._fields: dict[str, tuple[int, int]] = {
            name: (getattr(value_type, name).offset, getattr(value_type, name).size)
            for name, *_ in value_type._fields_
        }

    def _value(self) -> bytes:
        value = self._array.get(bytes(4))
        assert value is not None, "an array always has its entry 0"
        return value

    def __getitem__(self, name: str) -> bytes:
        offset, size = self._fields[name]
        return self._value()[offset : offset + size]

    def __setitem__(self, name: str, data: bytes) -> None:
        offset, size = self._fields[name]
        if len(data) != size:
            raise ValueError(f"variable {name} has {size} bytes, not {len(data)}")
        value = self._value()
        self._array.set(bytes(4), value[:offset] + data + value[offset + size :])

    def __delitem__(self, name: str) -> None:
        raise TypeError("a program's variables cannot be removed")

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


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
    """Compiles and loads a set. `ProgramError` for what is wrong with it, `MachineError` for the machine."""
    kernel_btf()
    bcc = _import_bcc()
    text = expand(source_set.sources, source_set.include)
    module, diagnostics = _compile(bcc, source_set, text, find_headers())
    try:
        programs = {
            name: Program(name, kind, _load_program(module, source_set, name, kind))
            for name, kind in source_set.programs
        }
        maps = {name: Map(name, _map_fd(bcc, module, name)) for name in source_set.maps}
        variables: MutableMapping[str, bytes] = {}
        if source_set.globals_map is not None:
            name = source_set.globals_map
            variables = _ArrayVariables(Map(name, _map_fd(bcc, module, name)), module[name.encode()].Leaf)
    except BaseException:
        module.cleanup()
        raise
    origin = f"{source_set.name} ({', '.join(path.name for path in source_set.sources)}) by bcc"
    return ProgramSet(programs, maps, variables, module.cleanup, diagnostics, origin)


def _compile(bcc: Any, source_set: SourceSet, text: str, headers: Headers) -> tuple[Any, str]:
    flags = [
        "-DTESTBED_BCC",
        "-Werror=implicit-function-declaration",
        *(f"-D{define}" for define in source_set.defines),
        *headers.flags,
    ]
    said = Captured()
    try:
        with captured_stderr(said), _kernel_source(headers):
            module = bcc.BPF(text=text.encode(), cflags=flags, debug=_DEBUG_BTF)
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
            return int(module.load_func(name.encode(), kind.prog_type, attach_type=kind.attach_type).fd)
    except Exception as error:
        _reraise_unless_of_bcc(error)
        digest = verifier_digest(said.text, source_set.files())
        raise ProgramError(
            f"load {name} ({kind.section})",
            f"{str(error).rpartition(': ')[2]}: {digest.reason}",
            f"the whole log is in {save_log(f'verifier-{name}', said.text)}",
            digest.lines,
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
    return fd
