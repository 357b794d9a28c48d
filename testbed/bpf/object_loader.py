"""Loads ELF objects with libbpf, in a process of their own; what comes back is owned by descriptors.

The objects of a set share maps by name (never their variables). A program that is rejected is
reported and the rest is used. See `testbed.bpf.worker` for why another process does it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from testbed.bpf import libbpf
from testbed.bpf.map_memory import available_memory
from testbed.bpf.object_file import ObjectError, ObjectFile, explain, read_object
from testbed.bpf.object_info import ObjectInfo
from testbed.bpf.object_request import PACKET, ObjectReply, ObjectSpec, Request, send_packets
from testbed.closing import Closing
from testbed.errors import MachineError, ProgramError, TestbedError, errno_name

DEADLINE_S = 60.0
_FDS = 253
_CONSTANTS = 32 * 1024  # they go in a packet, each byte as two
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); from testbed.bpf.worker import main; main(int(sys.argv[2]))"
)
_SHAPE = tuple[int, int, int, int]


@dataclass(frozen=True)
class LoadOptions:
    """How a set is loaded.

    ``only`` names the programs to load (empty: all), ``skip`` those to leave out. ``log_level`` is
    the verifier's (0: a log for what is rejected; 1, 2: for all; 4: statistics). ``tail_calls``
    fills program arrays once all is loaded: (map, index, program). ``inner_maps`` says what the maps
    in a map of maps look like, where the object does not: (type, key size, value size, entries).
    ``constants`` are variables to be set before the load, by name, as bytes.
    """

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    log_level: int = 0
    tail_calls: tuple[tuple[str, int, str], ...] = ()
    inner_maps: Mapping[str, _SHAPE] = field(default_factory=dict)
    constants: Mapping[str, bytes] = field(default_factory=dict)


class Reply(Closing):
    """What the worker replied: a description of each object, and descriptors. They close with it."""

    def __init__(self, files: Sequence[ObjectFile], received: Sequence[int]) -> None:
        self._undo = ExitStack()
        self._undo.callback(_close, received)
        text, *fds = received
        head, _, blobs = os.pread(text, os.fstat(text).st_size, 0).partition(b"\n")
        self.fds: tuple[int, ...] = tuple(fds)
        self.replies: list[ObjectReply] = json.loads(head)
        infos = []
        for file, reply in zip(files, self.replies, strict=True):
            infos.append(ObjectInfo(file.path, reply, blobs[: reply["btf"]]))
            blobs = blobs[reply["btf"] :]
        self.infos: tuple[ObjectInfo, ...] = tuple(infos)

    def take(self) -> ExitStack:
        """The descriptors, whose owner the caller is from now on."""
        return self._undo.pop_all()

    def close(self) -> None:
        self._undo.close()


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


class _Ended(Exception):
    """The worker is gone; its exit code, negative for a signal."""


class _Worker(Closing):
    """One worker process. ``used`` is whether it has answered anything yet."""

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.used = False
        with theirs, ExitStack() as undo:
            undo.callback(self.control.close)
            package = Path(__file__).resolve().parents[2]
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _START, str(package), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
            undo.pop_all()

    def ask(self, request: Request, fds: Sequence[int]) -> list[int]:
        """The descriptors of the reply, the first of which holds its text. `_Ended`."""
        with ExitStack() as stack:
            received: list[int] = []
            stack.callback(_close, received)
            try:
                send_packets(self.control, request, fds)
                while True:
                    data, more, flags, _ = socket.recv_fds(
                        self.control, PACKET, _FDS, socket.MSG_CMSG_CLOEXEC
                    )
                    received += more
                    if flags & socket.MSG_CTRUNC:
                        why = errno_name(errno.EMFILE)
                        raise MachineError("load objects", why, "ulimit -n says how many")
                    verb, *words = json.loads(data) if data else ["ended"]
                    if verb != "fds":
                        break
            except ConnectionError:
                verb = "ended"
            if verb == "ended":
                raise _Ended(self._process.wait())
            if verb == "fault":
                raise RuntimeError(f"in the loader's process: {words[0]}")
            self.used = True
            stack.pop_all()
        return received

    def close(self) -> None:
        self.control.close()
        self._process.kill()  # it may be busy with something that nobody waits for any more
        self._process.wait()


class ObjectLoader(Closing):
    """Opens and loads objects; one loader serves any number of loads. Starts a worker process at once."""

    def __init__(self, deadline: float = DEADLINE_S, memory: int | None = None) -> None:
        """``deadline`` (seconds) and ``memory`` (bytes of maps; half of what is left) are of each load.

        `MachineError` without libbpf.
        """
        libbpf.require()
        self._deadline = deadline
        self._memory = memory
        self._worker = _Worker()

    def open(self, paths: Sequence[Path]) -> list[ObjectInfo]:
        """What is in each object; nothing is loaded, and root is not needed. `ObjectError`."""
        with self._ask([read_object(path) for path in paths], LoadOptions(), load=False) as reply:
            return list(reply.infos)

    def load(self, files: Sequence[ObjectFile], options: LoadOptions) -> Reply:
        """Loads objects as one set. `ObjectError` for what cannot be opened or made at all."""
        try:
            return self._ask(files, options, load=True)
        except OSError as error:
            raise MachineError(
                "load objects", errno_name(error.errno or 0), "`ulimit -a` says what is limited"
            ) from error

    def _ask(self, files: Sequence[ObjectFile], options: LoadOptions, *, load: bool) -> Reply:
        request = self._request(files, options, load)
        with ExitStack() as stack:
            fds = []
            for file in files:
                fds.append(os.memfd_create(file.name[:200], os.MFD_CLOEXEC))
                stack.callback(os.close, fds[-1])
                with open(fds[-1], "wb", closefd=False) as copy:
                    copy.write(file.data)
            reply = Reply(files, self._answer(files, request, fds))
        for file, described in zip(files, reply.replies, strict=True):
            if described["errno"]:
                reply.close()
                raise _object_failure(file, described, load=load)
        return reply

    def _request(self, files: Sequence[ObjectFile], options: LoadOptions, load: bool) -> Request:
        constants = self._constants(files, options.constants) if options.constants else {}
        return Request(
            objects=[
                ObjectSpec(
                    name=file.name,
                    skip=list(options.skip),
                    only=list(options.only) or None,
                    constants=constants.get(number, []),
                )
                for number, file in enumerate(files)
            ],
            load=load,
            log_level=options.log_level,
            inner=dict(options.inner_maps),
            deadline=self._deadline,
            available=available_memory() if self._memory is None else self._memory,
        )

    def _constants(
        self, files: Sequence[ObjectFile], values: Mapping[str, bytes]
    ) -> dict[int, list[tuple[str, int, str]]]:
        """Where each constant is in which object: (map, offset, bytes in hex)."""
        found: dict[int, list[tuple[str, int, str]]] = {}
        missing = set(values)
        if sum(map(len, values.values())) > _CONSTANTS:
            raise ObjectError("set constants", f"they are more than {_CONSTANTS} bytes in all")
        with self._ask(files, LoadOptions(), load=False) as reply:
            for number, info in enumerate(reply.infos):
                maps = {each.section: each.name for each in info.maps if each.internal}
                for variable in info.all_variables():
                    if variable.name not in values:
                        continue
                    data = values[variable.name]
                    if len(data) != variable.size:
                        why = f"it has {variable.size} bytes, not {len(data)}"
                        raise ObjectError(f"set {variable.name} of {info.path}", why)
                    place = (maps[variable.section], variable.offset, data.hex())
                    found.setdefault(number, []).append(place)
                    missing.discard(variable.name)
        if missing:
            raise ObjectError(
                f"set {', '.join(sorted(missing))}", "none of the objects has BTF of such a variable"
            )
        return found

    def _answer(self, files: Sequence[ObjectFile], request: Request, fds: Sequence[int]) -> list[int]:
        """Asks the worker, and a new one where it ends: an earlier object may have done that to it."""
        while True:
            fresh = not self._worker.used
            try:
                return self._worker.ask(request, fds)
            except _Ended as ended:
                self._restart()
                if fresh:
                    raise self._explained(files, ended.args[0]) from ended
            except BaseException:
                self._restart()  # else the next one to ask would have the rest of this answer
                raise

    def _restart(self) -> None:
        self._worker.close()
        self._worker = _Worker()

    def _explained(self, files: Sequence[ObjectFile], code: int) -> TestbedError:
        """What a worker's end on these files means."""
        what = f"read {', '.join(str(file.path) for file in files)}"
        if code == -signal.SIGALRM:
            return ProgramError(what, f"libbpf or the verifier was still at it after {self._deadline:g} s")
        if code == -signal.SIGKILL:
            return MachineError(what, "somebody killed the loader's process (SIGKILL); is there memory left?")
        if code < 0:
            name = signal.Signals(-code).name
            for file in files:
                reason = explain(file, "", "")
                if reason:
                    return ObjectError(f"read the object {file.path}", reason)
            return ObjectError(what, f"libbpf crashed on it ({name}); its ELF or BTF data must be damaged")
        return TestbedError(what, f"the loader's process ended with {code}", "please report it")

    def close(self) -> None:
        """Ends the worker. What was loaded stays."""
        self._worker.close()


def _object_failure(file: ObjectFile, reply: ObjectReply, *, load: bool) -> ProgramError:
    """Why a whole object could not be opened or loaded."""
    reason = re.sub(r"\s+", " ", explain(file, reply["said"], reply["error"])).strip()
    return ObjectError(f"{'load' if load else 'read'} the object {file.path}", reason)
