"""The process of a keeper: away from the terminal, known by its record, heard by its socket."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from testbed.acquired import acquired
from testbed.errors import TestbedError, machine_error, ran_out
from testbed.keeper import protocol
from testbed.keeper.kept import Kept
from testbed.keeper.registry import Record, register, socket_path, survey
from testbed.keeper.server import Server, Stop, Stopped
from testbed.logs import prune_logs, save_log

_LOG = "keeper-"
_PIPE_CHUNK = 65536
_BACKLOG = 128


def be_keeper(name: str, log: Path, tell: int, keep: Callable[[Stop, ExitStack], Kept]) -> NoReturn:
    """Keeps what ``keep`` makes, until told to end. For a process that was just forked; it never returns.

    ``tell`` is a pipe's end: it gets what `hear` returns when the lab is ready, or what it raises.
    The lab goes down with the stack that ``keep`` is given, before its name is free again.
    """
    code = 1
    try:
        stop = Stop()
        with ExitStack() as stack:
            kept = keep(stop, stack)
            listener = stack.enter_context(listen(name))
            server = stack.enter_context(Server(kept, listener, stop))
            stop.check()
            _tell(tell, {"value": server.about()})
            server.run()
        code = 0
    except Stopped:
        code = 0
    except BrokenPipeError:
        sys.stderr.write("who asked for the lab is gone\n")
    except TestbedError as error:
        _tell_error(tell, error)
    except BaseException as error:  # noqa: BLE001 (it is told, and kept in the log)
        if ran_out(error) is None:
            traceback.print_exc()
        _tell_error(tell, _in_words(error, name, log))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _in_words(error: BaseException, name: str, log: Path) -> TestbedError:
    if ran_out(error) is not None:
        return machine_error(f"keep the lab {name}", error)
    why = f"a fault in the testbed itself: {type(error).__name__}: {error}"
    return TestbedError(f"keep the lab {name}", why, f"please report it, with {log}")


def own_record(name: str, topology: str) -> Record:
    """The record of this process as a keeper."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return Record(name, topology, os.getpid(), time.time(), shlex.join(words))


def take_name(name: str, topology: str, log: Path, stack: ExitStack) -> None:
    """Registers this process as the keeper of that name, until ``stack`` closes.

    When that is in order, its log goes too where nothing was written into it: before the name is free
    again, since the next one of that name has a log of the same name.
    """
    register(own_record(name, topology), stack)

    def remove_empty(kind: type[BaseException] | None, *_: object) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        if (kind is None or issubclass(kind, Stopped)) and log.is_file() and log.stat().st_size == 0:
            log.unlink()

    stack.push(remove_empty)


def new_log(name: str) -> Path:
    """An empty log for the keeper of that name. Of the labs that are gone, the newest logs stay."""
    log = save_log(f"{_LOG}{name}", "")
    prune_logs(_LOG, {log.stem, *(f"{_LOG}{record.name}" for record in survey(remove=False)[0])})
    return log


def listen(name: str) -> socket.socket:
    """The socket of a name that is registered: a stale one is somebody's who is dead."""
    path = socket_path(name)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    acquired("file", path)
    listener.listen(_BACKLOG)
    return listener


def write_to(log: Path) -> None:
    """From now on what this process says is in its log, and it hears nothing."""
    with open(os.devnull, "rb") as nowhere, log.open("ab") as file:  # noqa: PTH123 (no path of ours)
        os.dup2(nowhere.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _tell(pipe: int, message: dict[str, object]) -> None:
    data = json.dumps(message).encode()
    while data:
        data = data[os.write(pipe, data) :]
    os.close(pipe)


def _tell_error(pipe: int, error: TestbedError) -> None:
    sys.stderr.write(f"cannot {error}\n")
    try:
        _tell(pipe, protocol.error_message(error))
    except OSError:
        sys.stderr.write("nobody was there to be told\n")


def hear(pipe: int, name: str, log: Path) -> Any:
    """What the keeper tells of its lab when that is ready. Its error is raised."""
    data = b""
    while part := os.read(pipe, _PIPE_CHUNK):
        data += part
    if not data:
        raise TestbedError(f"keep the lab {name}", "its process has ended", f"it wrote {log}")
    message = json.loads(data)
    if "error" in message:
        protocol.raise_error(message["error"])
    return message["value"]
