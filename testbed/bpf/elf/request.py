"""What the loader and its process say to each other. JSON, so plain dictionaries on the wire."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import TypedDict

PACKET = 128 * 1024


class ObjectSpec(TypedDict):
    """One object to open: its bytes come as a descriptor, in the order of the objects."""

    name: str
    skip: list[str]
    """Programs that are not to be loaded."""
    only: list[str] | None
    """Programs that are to be loaded (None: all)."""
    constants: list[tuple[str, int, str]]
    """(map, offset, bytes in hex) to write into the variables before the load."""


class Request(TypedDict):
    """Objects that are to be opened, or loaded as one set."""

    objects: list[ObjectSpec]
    load: bool
    log_level: int
    """0: a log for programs that are rejected; 1, 2, 4: the verifier's levels, for all."""
    inner: dict[str, tuple[int, int, int, int]]
    """What the maps in a map of maps look like: (type, key size, value size, entries)."""
    max_entries: dict[str, int]
    """Sizes of maps, by name, in place of the objects' own."""
    deadline: float
    available: int
    """Bytes of memory that the maps may take."""


class ProgramReply(TypedDict):
    """``fd`` is an index into the descriptors, None where the program was not loaded."""

    name: str
    section: str
    prog_type: int
    attach_type: int
    instructions: int
    helpers: list[int]
    fd: int | None
    errno: int
    said: str
    """Of a program that was rejected: what libbpf said of it, and the verifier."""
    log: str
    """The verifier's log alone."""


class MapReply(TypedDict):
    """``fd`` is an index into the descriptors, None before a load.

    Of a load: a map that an earlier object has made is among that one's alone.
    """

    name: str
    shape: tuple[int, int, int, int, int]
    inner: tuple[int, int, int, int, int] | None
    internal: bool
    fd: int | None


class ObjectReply(TypedDict):
    """``errno`` is 0 unless the whole object could not be opened or loaded."""

    name: str
    errno: int
    error: str
    said: str
    assumed: list[str]
    """Maps of maps of which nobody says what is in them: taken for arrays of one 4-byte value."""
    programs: list[ProgramReply]
    maps: list[MapReply]
    btf: int
    """How many bytes of BTF; the blobs follow each other in the order of the objects."""


Message = Request | Sequence[object]


def send_packets(control: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Sends one message with copies of descriptors. `ValueError` when it is too long for a packet."""
    data = json.dumps(message).encode()
    if len(data) > PACKET:
        raise ValueError(f"a message of {len(data)} bytes; at most {PACKET}")
    socket.send_fds(control, [data], list(fds))
