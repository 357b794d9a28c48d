"""What a guest says to the host: messages of an agent that runs on the kernel under test.

That kernel may be at fault in any way, so nothing is believed of a message but what is checked here.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from testbed.visible import dotted_place, one_line

_LARGEST_OUTPUT = 64 << 20


def _unpacked(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError("it is no text")  # noqa: TRY004 (what pydantic takes for a mistake)
    try:
        unpacking = zlib.decompressobj()
        data = unpacking.decompress(base64.b64decode(value, validate=True), _LARGEST_OUTPUT)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(str(error)) from error
    if not unpacking.eof:
        raise ValueError(f"it is cut short, or has more than {_LARGEST_OUTPUT >> 20} MiB")
    return data


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Up(_Said):
    """User space is reached. ``loops`` is its speed, as `testbed.guest.pace.Pace.of` takes it."""

    event: Literal["up"] = "up"
    release: str
    failed: list[str]
    loops: float = Field(gt=0, allow_inf_nan=False)


class Fault(_Said):
    """The agent has failed: a fault in the testbed itself."""

    event: Literal["fault"] = "fault"
    why: str
    trace: str


class Waiting(_Said):
    """A command may come."""

    event: Literal["waiting"] = "waiting"


class Output(_Said):
    """A command has written this: to 1, its standard output, or 2. ``data`` travels as base64 of zlib."""

    event: Literal["output"] = "output"
    stream: Literal[1, 2]
    data: Annotated[bytes, BeforeValidator(_unpacked)]


class Exit(_Said):
    """A command has ended. ``code`` as a shell says it."""

    event: Literal["exit"] = "exit"
    code: int = Field(ge=0, le=255)


class Collected(_Said):
    """The scenarios are there."""

    event: Literal["collected"] = "collected"
    digest: str
    count: int


class Prepared(_Said):
    """The programs are loaded. ``splat`` is what the kernel complained of meanwhile."""

    event: Literal["prepared"] = "prepared"
    splat: str


class NoBpf(_Said):
    """This kernel was built without what sockops programs need."""

    event: Literal["no_bpf"] = "no_bpf"
    why: str


class Lacks(_Said):
    """This kernel is too old for the programs."""

    event: Literal["lacks"] = "lacks"
    why: str


class Fatal(_Said):
    """Nothing can be run; ``words`` are those of a `TestbedError`."""

    event: Literal["fatal"] = "fatal"
    code: int = 1
    words: list[str] = Field(min_length=2, max_length=4)


class Settled(_Said):
    """A snapshot may be taken."""

    event: Literal["settled"] = "settled"


class Start(_Said):
    """A scenario begins."""

    event: Literal["start"] = "start"
    item: int


class Verdict(_Said):
    """A scenario has ended."""

    event: Literal["result"] = "result"
    item: int
    outcome: Literal["passed", "failed", "skipped", "error"]
    seconds: float = Field(ge=0, allow_inf_nan=False)
    details: str
    violated: list[str]


class Done(_Said):
    """Every scenario has been run."""

    event: Literal["done"] = "done"


Message = (
    Up
    | Fault
    | Waiting
    | Output
    | Exit
    | Collected
    | Prepared
    | NoBpf
    | Lacks
    | Fatal
    | Settled
    | Start
    | Verdict
    | Done
)
_MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="event")])


class NoMessage(Exception):
    """What was said is none. The text of the error is why, in one line."""


def parse_message(text: bytes) -> Message:
    """The message that a line is. `NoMessage` for anything else."""
    try:
        return _MESSAGE.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = dotted_place(first["loc"])
        raise NoMessage(one_line(f"{where}: {first['msg']}" if where else first["msg"])) from error
