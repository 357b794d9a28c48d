"""Loads ELF objects with libbpf, in a process of their own; what comes back is owned by descriptors.

The objects of a set share maps by name (never their variables). A program that is rejected is
reported and the rest is used. See `testbed.bpf.elf.worker` for why another process does it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from testbed.acquired import acquired
from testbed.bpf import libbpf
from testbed.bpf.elf.file import ObjectError, ObjectFile, explain, read_object
from testbed.bpf.elf.info import ObjectInfo
from testbed.bpf.elf.memory_left import memory_left
from testbed.bpf.elf.request import ObjectReply, ObjectSpec, Request
from testbed.bpf.elf.worker_process import Ended, Worker, close_all
from testbed.bpf.types.btf import Variable
from testbed.closing import Closing
from testbed.errors import MachineError, ProgramError, TestbedError, UsageError, errno_name

DEADLINE_S = 60.0
_OBJECTS = 200
_LEFT = "MiB that are left"  # in the words of `testbed.bpf.elf.work_maps`
_OF_THE_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EPERM}
_CONSTANTS = 32 * 1024  # they go in a packet, each byte as two
_SHAPE = tuple[int, int, int, int]


@dataclass(frozen=True)
class LoadOptions:
    """How a set is loaded.

    ``only`` names the programs to load (empty: all), ``skip`` those to leave out. ``log_level`` is
    the verifier's (0: a log for what is rejected; 1, 2: for all; 4: statistics). ``tail_calls``
    fills program arrays once all is loaded: (map, index, program). ``inner_maps`` says what the maps
    in a map of maps look like, where the object does not: (type, key size, value size, entries).
    ``constants`` are variables to be set before the load, by name: Python values of their C types,
    or bytes. ``max_entries`` are sizes of maps, by name, in place of those that the objects say: entries,
    of a ring buffer bytes.
    """

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    log_level: int = 0
    tail_calls: tuple[tuple[str, int, str], ...] = ()
    inner_maps: Mapping[str, _SHAPE] = field(default_factory=dict)
    constants: Mapping[str, object] = field(default_factory=dict)
    max_entries: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("only", "skip"):
            if isinstance(getattr(self, name), str):
                raise UsageError(f"read {name}", "it is a text, not a tuple of names")


def _encoded(value: object, variable: Variable) -> bytes:
    what = f"set {variable.name}"
    if isinstance(value, bytes):
        if len(value) != variable.size:
            raise UsageError(what, f"it has {variable.size} bytes, not {len(value)}")
        return value
    try:
        return variable.type.encode(value)
    except (TypeError, ValueError) as error:
        raise UsageError(what, str(error)) from error


class Reply(Closing):
    """What the worker replied: a description of each object, and descriptors. They close with it."""

    def __init__(self, files: Sequence[ObjectFile], received: Sequence[int]) -> None:
        self._undo = ExitStack()
        self._undo.callback(close_all, received)
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


class ObjectLoader(Closing):
    """Opens and loads objects; one loader serves any number of loads. Starts a worker process at once."""

    def __init__(self, deadline: float = DEADLINE_S, memory: int | None = None) -> None:
        """``deadline`` (seconds) and ``memory`` (bytes of maps; half of what is left) are of each load.

        `MachineError` without libbpf.
        """
        libbpf.require()
        self._deadline = deadline
        self._memory = memory
        self._worker = Worker()

    @property
    def pid(self) -> int:
        """Of its worker process, which is another one after an object has crashed it."""
        return self._worker.pid

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
        if len(files) > _OBJECTS:
            raise UsageError("load objects", f"{len(files)} at once; a set has at most {_OBJECTS}")
        request = self._request(files, options, load)
        with ExitStack() as stack:
            fds = []
            for file in files:
                fds.append(os.memfd_create("object", os.MFD_CLOEXEC))
                acquired("memory", fds[-1])
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
            max_entries=dict(options.max_entries),
            deadline=self._deadline,
            available=memory_left().size if self._memory is None else self._memory,
        )

    def _constants(
        self, files: Sequence[ObjectFile], values: Mapping[str, object]
    ) -> dict[int, list[tuple[str, int, str]]]:
        """Where each constant is in which object: (map, offset, bytes in hex)."""
        found: dict[int, list[tuple[str, int, str]]] = {}
        missing = set(values)
        with self._ask(files, LoadOptions(), load=False) as reply:
            for number, info in enumerate(reply.infos):
                maps = {each.section: each.name for each in info.maps if each.internal}
                for variable in info.all_variables():
                    if variable.name not in values:
                        continue
                    data = _encoded(values[variable.name], variable)
                    place = (maps[variable.section], variable.offset, data.hex())
                    found.setdefault(number, []).append(place)
                    missing.discard(variable.name)
        if missing:
            names = ", ".join(sorted(missing))
            raise UsageError(f"set {names}", "none of the objects has BTF of such a variable")
        if sum(len(place[2]) for places in found.values() for place in places) > 2 * _CONSTANTS:
            raise UsageError("set constants", f"they are more than {_CONSTANTS} bytes in all")
        return found

    def _answer(self, files: Sequence[ObjectFile], request: Request, fds: Sequence[int]) -> list[int]:
        """Asks the worker, and a new one where it ends: an earlier object may have done that to it."""
        while True:
            fresh = not self._worker.used
            try:
                return self._worker.ask(request, fds)
            except Ended as ended:
                self._restart()
                if fresh or ended.args[0] == -signal.SIGALRM:
                    raise self._explained(files, ended.args[0]) from ended
            except BaseException:
                self._restart()  # else the next one to ask would have the rest of this answer
                raise

    def _restart(self) -> None:
        self._worker.close()
        self._worker = Worker()

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


def _object_failure(file: ObjectFile, reply: ObjectReply, *, load: bool) -> TestbedError:
    """Why a whole object could not be opened or loaded."""
    what = f"{'load' if load else 'read'} the object {file.path}"
    if reply["errno"] in _OF_THE_MACHINE and not reply["error"].startswith("the map"):
        return MachineError(
            what, errno_name(reply["errno"]), "run it as root; `ulimit -a` says what is limited"
        )
    reason = re.sub(r"\s+", " ", explain(file, reply["said"], reply["error"])).strip()
    fix = f"make the map smaller, or let it have more memory: {memory_left().by}" if _LEFT in reason else ""
    return ObjectError(what, reason, fix)
