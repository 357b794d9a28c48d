"""Kernel images: what they are, and the vmlinux that is packed in a bzImage.

Formats: Documentation/arch/x86/boot.rst and Documentation/arch/arm64/booting.rst of the kernel's sources.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import platform
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lz4.block
import zstandard
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment

from testbed.errors import MachineError, UsageError

_BANNER = re.compile(rb"Linux version (\d+\.\d+[^\s]*) \(")
# XEN_ELFNOTE_PHYS32_ENTRY: where QEMU enters a vmlinux of x86
_PVH_NOTE: tuple[object, object] = ("Xen", 18)
_LZ4_BLOCK = 8 << 20  # LZ4's legacy format has blocks of that size, but for the last
_ELF_MACHINES = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}
_READ_TO = 1 << 30  # no kernel unpacks to more


@dataclass(frozen=True)
class Image:
    """``data`` boots as it is; ``release`` is what ``uname -r`` says in it, ``name`` a file name for it."""

    name: str
    data: bytes
    release: str


@dataclass(frozen=True)
class _Header:
    machine: str
    release: str
    payload: bytes


def open_image(path: Path) -> Image:
    """The image in a file: a vmlinux that QEMU can boot where it holds one, else itself.

    `UsageError` for what is no kernel image, `MachineError` for one of another architecture.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"read the kernel {path}", error.strerror or str(error)) from error
    return read_image(data, str(path))


def read_image(data: bytes, name: str) -> Image:
    """As `open_image`, of content; ``name`` is what messages call it."""
    if data[:2] == b"\x1f\x8b":  # Image.gz of arm64, vmlinux.gz
        data = _unpacked(data, name)
    if data[:4] == b"\x7fELF":
        _need_machine(_elf_machine(data, name), name)
        if not _has_pvh_note(data):
            why = "it is an ELF without a PVH entry (CONFIG_PVH), which QEMU cannot boot"
            raise not_an_image(name, why)
        return Image("vmlinux", data, _banner(data, name))
    header = _bzimage(data, name) or _arm64(data)
    if header is None:
        raise not_an_image(name, "it has neither a bzImage's header nor an ELF's")
    _need_machine(header.machine, name)
    if not header.payload:
        return Image("Image", data, header.release or _banner(data, name))
    vmlinux = _decompress(header.payload, name)
    if vmlinux is not None and _has_pvh_note(vmlinux):
        return Image("vmlinux", vmlinux, header.release or _banner(vmlinux, name))
    return Image("bzImage", data, header.release)


def not_an_image(name: str, why: str) -> UsageError:
    return UsageError(
        f"boot {name}",
        f"it is no kernel image: {why}",
        "give the bzImage of a build (arm64: its Image), or a /boot/vmlinuz-*",
    )


def _bzimage(data: bytes, name: str) -> _Header | None:
    if len(data) < 0x250 or data[0x202:0x206] != b"HdrS":
        return None
    (version,) = struct.unpack_from("<H", data, 0x206)
    start = (data[0x1F1] or 4) * 512 + 512
    (at,) = struct.unpack_from("<H", data, 0x20E)
    release = data[at + 0x200 :].split(b"\0", 1)[0].split(b" ", 1)[0] if at else b""
    if version < 0x208:  # before Linux 2.6.26: no payload's place
        return _Header("x86_64", release.decode("latin-1"), b"")
    offset, length = struct.unpack_from("<II", data, 0x248)
    payload = data[start + offset : start + offset + length]
    if len(payload) != length:
        raise not_an_image(name, f"it is cut short: {len(data)} bytes of {start + offset + length}")
    return _Header("x86_64", release.decode("latin-1"), payload)


def _arm64(data: bytes) -> _Header | None:
    return _Header("aarch64", "", b"") if data[56:60] == b"ARM\x64" else None


def _need_machine(machine: str, name: str) -> None:
    here = platform.machine()
    if machine != here:
        raise MachineError(
            f"boot {name}", f"it is for {machine}, this machine is {here}", "build it for this architecture"
        )


def _elf_machine(data: bytes, name: str) -> str:
    try:
        machine = str(ELFFile(io.BytesIO(data))["e_machine"])
    except ELFError as error:
        raise not_an_image(name, f"it is a damaged ELF: {error}") from error
    return _ELF_MACHINES.get(machine, machine)


def _banner(data: bytes, name: str) -> str:
    match = _BANNER.search(data)
    if match is None:
        raise not_an_image(name, "no “Linux version” is in it")
    return match[1].decode("latin-1")


def _has_pvh_note(vmlinux: bytes) -> bool:
    try:
        elf = ELFFile(io.BytesIO(vmlinux))
        return any(
            (note["n_name"], note["n_type"]) == _PVH_NOTE
            for segment in elf.iter_segments("PT_NOTE")
            if isinstance(segment, NoteSegment)
            for note in segment.iter_notes()
        )
    except ELFError:
        return False


def _lz4_legacy(data: bytes) -> bytes:
    blocks: list[bytes] = []
    at = 4
    while at + 4 < len(data):  # the last word is the unpacked size, which the kernel's build appends
        (size,) = struct.unpack_from("<I", data, at)
        blocks.append(lz4.block.decompress(data[at + 4 : at + 4 + size], uncompressed_size=_LZ4_BLOCK))
        at += 4 + size
    return b"".join(blocks)


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


def _gzip(data: bytes) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(data)


# By the first bytes (scripts/Makefile.lib, lib/decompress.c). All but LZ4 know where they end: the
# unpacked size is appended to each. LZO is not here: no library of Python's unpacks it.
_FORMATS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", _gzip),
    (b"\xfd7zXZ\x00", lambda data: lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(data, _READ_TO)),
    (b"\x5d\x00\x00", lambda data: lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(data, _READ_TO)),
    (b"BZh", lambda data: bz2.BZ2Decompressor().decompress(data, _READ_TO)),
    (b"\x02\x21\x4c\x18", _lz4_legacy),
    (b"\x28\xb5\x2f\xfd", _zstd),
)

_BROKEN = (
    *(OSError, EOFError, ValueError, RuntimeError, struct.error),
    *(lzma.LZMAError, zlib.error, zstandard.ZstdError, lz4.block.LZ4BlockError),
)


def _decompress(payload: bytes, name: str) -> bytes | None:
    """None for a compression that is not known."""
    unpack = next((unpack for magic, unpack in _FORMATS if payload.startswith(magic)), None)
    if unpack is None:
        return None
    try:
        vmlinux = unpack(payload)
    except _BROKEN as error:
        raise not_an_image(name, f"what is packed in it is damaged ({error})") from error
    (size,) = struct.unpack("<I", payload[-4:])  # gzip's own, appended by the kernel's build to the others
    if not vmlinux or size != len(vmlinux):
        raise not_an_image(
            name, f"what is packed in it is damaged ({len(vmlinux)} bytes came out instead of {size})"
        )
    return vmlinux


def _unpacked(data: bytes, name: str) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise not_an_image(name, f"its gzip is damaged ({error})") from error
