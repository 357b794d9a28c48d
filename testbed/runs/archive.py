"""A run in one file: a zip archive that holds what it may hold, and nothing that has been changed.

The members have a fixed order, time and mode, so that the same content gives the same bytes. The
archive's comment is the SHA-256 of all that stands before it, and ``manifest.json`` has that of each
member. Reading takes nothing to disk: a member is bytes in memory, and never more than its limit.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

from testbed.errors import UsageError
from testbed.runs.codec import document
from testbed.runs.model import FORMAT

MANIFEST = "manifest.json"
KIND = "sockops-testbed capsule"
FILE_LIMIT = 64 << 20
TOTAL_LIMIT = 256 << 20
_MOST_MEMBERS = 500
_TIME = (1980, 1, 1, 0, 0, 0)  # the first that a zip archive knows
_MODE = 0o100644 << 16
_MARK = b"sha256:"
_COMMENT = len(_MARK) + 64
_END = struct.Struct("<4s4H2LH")  # the end of central directory record (APPNOTE.TXT 4.3.16)
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,100}"
LIMITS = (
    (re.compile(r"(manifest|run|scenario|topology|kernel|versions)\.json"), 1 << 20),
    (re.compile(r"maps\.json"), 32 << 20),
    (re.compile(r"kernel-config|dmesg\.txt|test\.py|abi\.yaml"), 4 << 20),
    (re.compile(r"stories/\d{4,6}\.json"), 64 << 20),
    (re.compile(r"packets/\d{4,6}\.pcapng"), 64 << 20),
    (re.compile(rf"objects/{_PART}"), 16 << 20),
    (re.compile(rf"sources/({_PART}/){{0,3}}{_PART}\.[ch]"), 1 << 20),
)
"""What a member may be called, and how many bytes it may have."""
_DAMAGED = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    zlib.error,
    struct.error,
)
"""All that zipfile raises on an archive that is none."""


def limit_of(name: str) -> int | None:
    """How many bytes a member of that name may have; None for a name that none has."""
    return next((limit for pattern, limit in LIMITS if pattern.fullmatch(name)), None)


def pack(members: Mapping[str, bytes]) -> bytes:
    """The archive of these members, and a manifest. `ValueError` for a member that could not be read."""
    described = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for name, data in sorted(members.items())
    }
    manifest = {"kind": KIND, "format": FORMAT, "members": described}
    everything = {MANIFEST: f"{json.dumps(manifest, indent=1)}\n".encode(), **members}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in sorted(everything, key=lambda each: (each != MANIFEST, each)):
            limit = limit_of(name)
            if limit is None or len(everything[name]) > limit:
                raise ValueError(f"{name} is no member of a capsule, or too large for one")
            entry = zipfile.ZipInfo(name, _TIME)
            entry.create_system, entry.external_attr = 3, _MODE  # Unix, a plain file
            archive.writestr(entry, everything[name], zipfile.ZIP_DEFLATED, 6)
        archive.comment = bytes(_COMMENT)
    body = file.getvalue()[:-_COMMENT]
    return body + _MARK + hashlib.sha256(body).hexdigest().encode()


def unpack(data: bytes, what: str) -> dict[str, bytes]:
    """The members by name, without the manifest. `UsageError` for anything that `pack` has not made."""
    try:
        _need_whole(data)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            read = _read_all(archive)
    except _DAMAGED as error:
        why = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(f"read {what}", f"it is no capsule, or a damaged one: {why}") from error
    return _as_described(read, what)


def _need_whole(data: bytes) -> None:
    """The last record is where `pack` puts it, and the digest behind it is that of all before."""
    if len(data) > FILE_LIMIT:
        raise zipfile.BadZipFile(f"it has more than {FILE_LIMIT >> 20} MiB")
    at = len(data) - _COMMENT - _END.size
    if at < 0 or not data.startswith(b"PK\3\4"):
        raise zipfile.BadZipFile("it is no zip archive")
    signature, _, _, here, members, _, _, comment = _END.unpack_from(data, at)
    if signature != b"PK\5\6" or comment != _COMMENT or data[-_COMMENT:][: len(_MARK)] != _MARK:
        raise zipfile.BadZipFile("it does not end as one does")
    if hashlib.sha256(data[:-_COMMENT]).hexdigest().encode() != data[-64:]:
        raise zipfile.BadZipFile("its content is not what was written (SHA-256)")
    if not 0 < members <= _MOST_MEMBERS or here != members:
        raise zipfile.BadZipFile(f"it has {members} members")


def _read_all(archive: zipfile.ZipFile) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    total = 0
    for entry in archive.infolist():
        limit = limit_of(entry.filename)
        if limit is None:
            raise zipfile.BadZipFile(f"{entry.filename[:100]!r} is no member of a capsule")
        if entry.filename in found:
            raise zipfile.BadZipFile(f"it has {entry.filename} twice")
        if entry.external_attr != _MODE or entry.flag_bits or entry.compress_type != zipfile.ZIP_DEFLATED:
            raise zipfile.BadZipFile(f"{entry.filename} is no plain file")
        with archive.open(entry) as member:
            data = member.read(limit + 1)
        total += len(data)
        if len(data) > limit or total > TOTAL_LIMIT:
            raise zipfile.BadZipFile(f"{entry.filename} is too large")
        found[entry.filename] = data
    return found


def _as_described(found: dict[str, bytes], what: str) -> dict[str, bytes]:
    manifest: Any = document(found.pop(MANIFEST, b"null"), f"the manifest of {what}")
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise UsageError(f"read {what}", "it is a zip archive, but no capsule (its manifest does not say so)")
    if manifest.get("format") != FORMAT:
        raise UsageError(
            f"read {what}",
            f"it is of format {manifest.get('format')!r}; this testbed reads {FORMAT}",
            "use the testbed's version that made it",
        )
    digests = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in found.items()
    }
    if manifest.get("members") != digests:
        raise UsageError(f"read {what}", "its members are not those that its manifest describes")
    return found
