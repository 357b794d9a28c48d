"""ELF object files as they come from people: read carefully, and explained where they are no good."""

from __future__ import annotations

import io
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from testbed.bpf.types.btf_entries import BtfError, parse_entries
from testbed.errors import ExitCode, ProgramError, errno_name

_LARGEST = 256 << 20
_LEAST = 64  # an ELF header
_WARNING = re.compile(r"^libbpf: (?:elf: )?(.*)$", re.MULTILINE)
_REMARK = re.compile(
    r"skipping |-- BEGIN|BTF loading error"
    r"|.*(Ignored and continue|BTF is optional|Retrying without BTF|failed to load object)"
)
_BTF_LOG = re.compile(r"-- BEGIN BTF LOAD LOG ---?\n(?:.*\n)*?(.*)\n*-- END BTF LOAD LOG")
_COMPILE = "compile it with clang -target bpf -O2 -g -c"


class ObjectError(ProgramError):
    """A file that is no usable BPF object."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True)
class ObjectFile:
    """The bytes of a file that may be an object. ``path`` as it was given."""

    path: Path
    data: bytes

    @property
    def name(self) -> str:
        """What libbpf calls it: without characters that the kernel takes for no name."""
        return re.sub(r"\W", "_", self.path.name.removesuffix(".o")) or "object"


def read_object(path: Path) -> ObjectFile:
    """Reads a file. `ObjectError` when there is none, or nothing that could be an object."""
    what = f"read the object {path}"
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ObjectError(what, "it is a directory", "name the .o files in it")
        if not stat.S_ISREG(status.st_mode):
            raise ObjectError(what, "it is no regular file")
        if status.st_size > _LARGEST:
            raise ObjectError(what, f"it has {status.st_size >> 20} MiB; objects have a few")
        data = path.read_bytes()
    except OSError as error:
        raise ObjectError(what, errno_name(error.errno or 0)) from error
    except ValueError as error:  # a null byte in the name
        raise ObjectError(what, str(error)) from error
    if not data:
        raise ObjectError(what, "it is empty", _COMPILE)
    if data[:4] != b"\x7fELF":
        raise ObjectError(what, _no_elf(path, data), _COMPILE)
    if len(data) < _LEAST:
        raise ObjectError(what, f"it is truncated: {len(data)} bytes are less than an ELF header", _COMPILE)
    return ObjectFile(path, data)


def _no_elf(path: Path, data: bytes) -> str:
    if path.suffix in {".c", ".h"}:
        return "it is C source, not an ELF object"
    return f"it is not an ELF file (it begins with {data[:4]!r})"


def explain(file: ObjectFile, said: str, otherwise: str) -> str:
    """Why libbpf did not take an object, in one line: by its headers, else by libbpf's own words."""
    return _by_headers(file.data, said) or _by_words(said, otherwise)


def _by_headers(data: bytes, said: str) -> str:
    from elftools.elf.elffile import ELFFile

    try:
        elf = ELFFile(io.BytesIO(data))
        for wrong, why in (
            (elf.elfclass != 64, f"it is a {elf.elfclass}-bit ELF file; BPF objects have 64"),
            (not elf.little_endian, "it is for big-endian machines; compile it with -target bpfel"),
            (elf["e_machine"] != "EM_BPF", f"its machine is {_machine(elf['e_machine'])}, not BPF"),
            (elf["e_type"] != "ET_REL", f"it is {elf['e_type']}, not a relocatable object (ET_REL)"),
        ):
            if wrong:
                return why
        end = elf["e_shoff"] + elf["e_shnum"] * elf["e_shentsize"]
        if end > len(data):
            return f"it is truncated: its section table ends at byte {end}, the file at {len(data)}"
        if elf.get_section_by_name(".maps") and not elf.get_section_by_name(".BTF"):
            return "it has maps and no BTF to describe them (no .BTF section); compile it with -g"
        types = elf.get_section_by_name(".BTF")
        if "ELF section .BTF:" in said and types:  # libbpf says no more than that it does not take it
            parse_entries(types.data())
    except BtfError as error:
        return f"its BTF is damaged: {error.why}"
    except Exception as error:  # noqa: BLE001 (pyelftools raises what it stumbles over; all is damage)
        return _damage(error)
    return ""


def _machine(value: object) -> str:
    return (
        str(value).removeprefix("EM_").replace("X86_64", "x86-64") if isinstance(value, str) else f"#{value}"
    )


def _by_words(said: str, otherwise: str) -> str:
    """The first thing that libbpf complained of: what follows is its consequence."""
    remarks = [match[1] for match in _WARNING.finditer(said)]
    complaints = [each for each in remarks if not _REMARK.match(each)]
    first = complaints[0] if complaints else "; ".join([otherwise, *remarks[:1]])
    log = _BTF_LOG.search(said)
    return f"{first}; the kernel does not take its BTF: {log[1]}" if log else first


def license_of(file: ObjectFile) -> str | None:
    """The text of the ``license`` section, None where there is none."""
    from elftools.elf.elffile import ELFFile

    try:
        section = ELFFile(io.BytesIO(file.data)).get_section_by_name("license")
        return None if section is None else section.data().rstrip(b"\0").decode(errors="backslashreplace")
    except Exception as error:
        raise elf_damage(file.path, error) from error


def elf_damage(path: Path, error: Exception) -> ObjectError:
    """For whatever pyelftools stumbled over: all of it is damage."""
    return ObjectError(f"read the object {path}", _damage(error))


def _damage(error: Exception) -> str:
    return f"its ELF structure is damaged ({type(error).__name__}: {error or 'no more is known'})"
