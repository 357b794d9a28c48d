"""What a keeper is asked, and how it answers: JSON in SOCK_SEQPACKET packets, descriptors beside it.

A request is ``{"version": 1, "request": "enter", "host": "client"}``. An answer is ``{"version": 1,
"value": …}`` with the descriptors that belong to it, or ``{"version": 1, "error": {…}}`` with what
`TestbedError` has. One that is too long for a packet is in a memory file, whose descriptor comes
last, behind ``{"version": 1, "memory": true}``. What `watch` asked for comes in packets of its own.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from testbed.acquired import acquired
from testbed.errors import ExitCode, MachineError, TestbedError, UsageError, command, errno_name
from testbed.visible import dotted_place, one_line

VERSION = 1
PACKET = 60_000  # bytes: a third of what a socket's buffer takes at least
_FDS = 8


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    version: Literal[1] = 1


class About(_Request):
    """The lab in short: what `up` and `ls` show."""

    request: Literal["about"] = "about"


class Inspect(_Request):
    """Everything of the lab but the contents of maps."""

    request: Literal["inspect"] = "inspect"


class Enter(_Request):
    """The descriptors of a host's network namespace and of its cgroup."""

    request: Literal["enter"] = "enter"
    host: str


class Maps(_Request):
    """The maps of the sets, or what is in one of them."""

    request: Literal["maps"] = "maps"
    name: str = ""


class Manage(_Request):
    """Makes the addresses of a host managed, or no longer."""

    request: Literal["manage"] = "manage"
    host: str
    on: bool


class Watch(_Request):
    """Everything that happens from now on, until the client goes."""

    request: Literal["watch"] = "watch"
    hosts: list[str] = []


class Packets(_Request):
    """A descriptor of a packet socket in a host, and what is known of its interface."""

    request: Literal["packets"] = "packets"
    host: str
    interface: str


class Impair(_Request):
    """Changes what a link does to packets; nothing of it is left where ``words`` is empty."""

    request: Literal["impair"] = "impair"
    link: str
    words: list[str] = []


Request = About | Inspect | Enter | Maps | Manage | Watch | Packets | Impair
_REQUESTS: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="request")])


def parse_request(data: bytes) -> Request:
    """`UsageError` for what is no request of this version."""
    try:
        return _REQUESTS.validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = dotted_place(first["loc"][1:])
        if where == "version":
            raise _other_version() from error
        why = one_line(f"{where}: {first['msg']}" if where else first["msg"])
        raise UsageError("read a request", why) from error


def _other_version() -> UsageError:
    return UsageError(
        "talk to the lab's keeper",
        "it is of another version of the testbed",
        f"take the lab down ({command('down')}), and bring it up again",
    )


def send(sock: socket.socket, message: Mapping[str, object], fds: Sequence[int] = ()) -> None:
    """Sends a message with copies of descriptors. `BlockingIOError` when nobody takes it in time."""
    text = json.dumps({"version": VERSION, **message}, ensure_ascii=False).encode()
    with ExitStack() as stack:
        if len(text) > PACKET:
            memory = os.memfd_create("answer", os.MFD_CLOEXEC)
            acquired("memory", memory)
            stack.callback(os.close, memory)
            with os.fdopen(os.dup(memory), "wb") as file:
                file.write(text)
            text = json.dumps({"version": VERSION, "memory": True}).encode()
            fds = (*fds, memory)
        if fds:
            socket.send_fds(sock, [text], list(fds))
        else:
            sock.send(text)


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next message and its descriptors; `EOFError` when it was the last.

    `UsageError` for one of another version.
    """
    data, fds, flags, _ = socket.recv_fds(sock, PACKET + 1, _FDS, socket.MSG_CMSG_CLOEXEC)
    if not data:
        raise EOFError
    if flags & socket.MSG_CTRUNC:
        for fd in fds:
            os.close(fd)
        raise MachineError("take the descriptors of an answer", errno_name(errno.EMFILE))
    with ExitStack() as stack:
        for fd in fds:
            acquired("descriptor", fd)
            stack.callback(os.close, fd)
        memory = None
        try:
            message = json.loads(data)
            if message.get("memory"):
                memory = fds.pop()
                message = json.loads(os.pread(memory, os.fstat(memory).st_size, 0))
        except (ValueError, AttributeError, IndexError) as error:
            raise _other_version() from error
        if message.get("version") != VERSION:
            raise _other_version()
        if fds:
            stack.pop_all()  # the caller's, but for the memory's
            if memory is not None:
                os.close(memory)
    return message, fds


def error_message(error: TestbedError) -> dict[str, object]:
    """An error as an answer."""
    return {
        "error": {
            "what": error.what,
            "why": error.why,
            "fix": error.fix,
            "details": error.details,
            "code": int(error.exit_code),
        }
    }


def raise_error(error: Mapping[str, Any]) -> None:
    """The error of an answer, raised here with the exit code that it has there."""
    made = TestbedError(*(str(error[name]) for name in ("what", "why", "fix", "details")))
    made.exit_code = ExitCode(error["code"])
    raise made
