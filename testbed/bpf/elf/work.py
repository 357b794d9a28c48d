"""Opens and loads objects with libbpf, as many of their programs as the kernel takes. For the worker."""

from __future__ import annotations

import ctypes
import errno
import os
import re
from contextlib import ExitStack

from testbed.bpf.elf.libbpf_object import (
    ObjectMap,
    ObjectProgram,
    OpenObject,
)
from testbed.bpf.elf.request import MapReply, ObjectReply, ObjectSpec, ProgramReply, Request
from testbed.bpf.elf.work_maps import OF_MAPS, make_inner, memory_taken, reuse

_UNSPEC = 0
# Type and attach type of sections that libbpf does not know: an author's own, such as xdp_auth, and
# what libbpf has since 1.3
_BY_PREFIX = {"xdp": (6, 37), "tcx/": (3, 0), "tc/": (3, 0)}
_ARRAY = 2
_INNER_TEMPLATE = (_ARRAY, 4, 4, 1)
_LOG_BYTES = 1 << 20
_LOG_LIMIT = 1 << 30  # the kernel takes no more
_CALL = 0x85  # BPF_JMP | BPF_CALL; with source register 0 the immediate is a helper's number
_OF_PROGRAM = re.compile(r"^libbpf: prog '([^']+)': (.*)$", re.MULTILINE)
_LOG = re.compile(r"-- BEGIN PROG LOAD LOG --\n(.*?)-- END PROG LOAD LOG --", re.DOTALL)


class Stderr:
    """Descriptor 2 of this process, where libbpf writes, as text."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("stderr", os.MFD_CLOEXEC)
        os.dup2(self._fd, 2)

    def take(self) -> str:
        """What was written since the last time."""
        size = os.fstat(self._fd).st_size
        if not size:
            return ""
        data = os.pread(self._fd, size, 0)
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)  # descriptor 2 writes where this one stands
        return data.decode(errors="backslashreplace")


class _Job:
    """One object on its way: what is known of its programs so far."""

    def __init__(self, spec: ObjectSpec, data: bytes, request: Request, shared: dict[str, int]) -> None:
        self.spec = spec
        self.data = data
        self.request = request
        self.shared = shared
        self.failures: dict[str, tuple[int, str, str]] = {}
        self.log_bytes: dict[str, int] = {}
        self.said = ""
        self.taken = 0
        self.inner_fds: list[int] = []
        self.assumed: dict[str, None] = {}
        self.buffers: dict[str, ctypes.Array[ctypes.c_char]] = {}

    def wants(self, name: str) -> bool:
        only = self.spec["only"]
        return name not in self.spec["skip"] and (only is None or name in only)

    def shares(self, bpf_map: ObjectMap) -> bool:
        """Whether an earlier object of the set has made that map."""
        return not bpf_map.internal and bpf_map.name in self.shared


def load_set(
    request: Request, fds: list[int], stderr: Stderr, stack: ExitStack
) -> tuple[list[ObjectReply], list[bytes], list[int]]:
    """Returns a reply for each object, their BTF, and the descriptors of what was loaded.

    The descriptors belong to the objects, which close with ``stack``.
    """
    shared: dict[str, int] = {}
    replies, blobs, made = [], [], list[int]()
    for spec, fd in zip(request["objects"], fds, strict=True):
        job = _Job(spec, os.pread(fd, os.fstat(fd).st_size, 0), request, shared)
        reply, blob = _load_one(job, stderr, made, stack)
        replies.append(reply)
        blobs.append(blob)
    return replies, blobs, made


def _load_one(job: _Job, stderr: Stderr, made: list[int], stack: ExitStack) -> tuple[ObjectReply, bytes]:
    reply = ObjectReply(
        name=job.spec["name"], errno=0, error="", said="", assumed=[], programs=[], maps=[], btf=0
    )
    try:
        opened = _open_and_load(job, stderr) if job.request["load"] else _open(job)
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else errno.EINVAL
        reply["errno"] = number or errno.EIO
        reply["error"] = _words(error)
        reply["said"] = job.said or stderr.take() if isinstance(error, OSError) else ""
        return reply, b""
    stack.callback(opened.close)
    job.request["available"] -= job.taken
    reply["said"] = stderr.take()
    reply["assumed"] = list(job.assumed)
    blob = opened.btf()
    reply["btf"] = len(blob)
    for program in opened.programs:
        described = _describe_program(job, program)
        reply["programs"].append(described)
        if job.request["load"] and program.fd >= 0:
            described["fd"] = len(made)
            made.append(program.fd)
    for bpf_map in opened.maps:
        if job.request["load"] and job.shares(bpf_map):
            continue
        described_map = _describe_map(bpf_map)
        reply["maps"].append(described_map)
        if job.request["load"] and bpf_map.fd >= 0:
            described_map["fd"] = len(made)
            made.append(bpf_map.fd)
            if not bpf_map.internal:
                job.shared.setdefault(bpf_map.name, bpf_map.fd)
    return reply, blob


def _words(error: OSError | ValueError) -> str:
    if not isinstance(error, OSError):
        return str(error)
    name = errno.errorcode.get(error.errno or 0)
    return f"libbpf says no more than {f'{name} ({error.strerror})' if name else error.strerror}"


def _open(job: _Job) -> OpenObject:
    opened = OpenObject(job.data, job.spec["name"])
    for program in opened.programs:
        for prefix, kind in _BY_PREFIX.items():
            if program.prog_type == _UNSPEC and program.section.startswith(prefix):
                program.set_kind(*kind)
    return opened


def _open_and_load(job: _Job, stderr: Stderr) -> OpenObject:
    """Loads again without each program that was rejected: libbpf gives up at the first."""
    while True:
        opened = _open(job)
        attempted: set[str] = set()
        try:
            attempted = _prepare(job, opened)
            stderr.take()
            opened.load()
        except (OSError, ValueError) as error:
            opened.close()
            if not isinstance(error, OSError) or not _note_failure(job, error, stderr.take(), attempted):
                raise
        else:
            return opened
        finally:
            while job.inner_fds:  # libbpf looks at them in the load, and leaves them to us
                os.close(job.inner_fds.pop())


def _prepare(job: _Job, opened: OpenObject) -> set[str]:
    """Says what is to be loaded and how; returns the names of the programs."""
    attempted = set()
    level = job.request["log_level"]
    for program in opened.programs:
        wanted = job.wants(program.name) and program.name not in job.failures
        program.set_autoload(wanted)
        if wanted:
            attempted.add(program.name)
            if level:
                job.buffers[program.name] = ctypes.create_string_buffer(
                    job.log_bytes.get(program.name, _LOG_BYTES)
                )
                program.log_into(job.buffers[program.name], level)
    maps = opened.maps
    for bpf_map in maps:
        bpf_map.unpin()
        if not job.shares(bpf_map) and bpf_map.name in job.request["max_entries"]:
            bpf_map.set_max_entries(job.request["max_entries"][bpf_map.name])
        if job.shares(bpf_map):
            reuse(bpf_map, job.shared[bpf_map.name])
        elif bpf_map.map_type in OF_MAPS and bpf_map.inner is None:
            template = job.request["inner"].get(bpf_map.name)
            if template is None:
                job.assumed[bpf_map.name] = None
            job.inner_fds.append(make_inner(bpf_map, template or _INNER_TEMPLATE, job.request["available"]))
            bpf_map.set_inner(job.inner_fds[-1])
    job.taken = memory_taken([each for each in maps if not job.shares(each)], job.request["available"])
    by_name = {bpf_map.name: bpf_map for bpf_map in maps}
    for name, offset, data in job.spec["constants"]:
        by_name[name].write_initial(offset, bytes.fromhex(data))
    return attempted


def _note_failure(job: _Job, error: OSError, said: str, attempted: set[str]) -> bool:
    """Notes which program it was. False when it was none of them, but the object as a whole."""
    mentions = [match for match in _OF_PROGRAM.finditer(said) if match[1] in attempted]
    if not mentions:
        job.said = said
        return False
    name = mentions[-1][1]
    log = _LOG.search(said)
    text = log[1] if log else ""
    if name in job.buffers:
        text = job.buffers[name].value.decode(errors="backslashreplace")
        room = len(job.buffers[name])
        if error.errno == errno.ENOSPC and room < _LOG_LIMIT:
            job.log_bytes[name] = 4 * room  # the log did not fit: again, with more room
            return True
    words = [match[2] for match in mentions if match[1] == name and "LOAD LOG" not in match[2]]
    job.failures[name] = (error.errno or errno.EINVAL, "\n".join(words), text)
    return True


def _helpers(code: bytes) -> list[int]:
    found = set()
    for start in range(0, len(code), 8):
        if code[start] == _CALL and code[start + 1] >> 4 == 0:
            found.add(int.from_bytes(code[start + 4 : start + 8], "little", signed=True))
    return sorted(found)


def _describe_program(job: _Job, program: ObjectProgram) -> ProgramReply:
    code = program.instructions()
    number, said, log = job.failures.get(program.name, (0, "", ""))
    if not log and program.name in job.buffers:
        log = job.buffers[program.name].value.decode(errors="backslashreplace")
    return ProgramReply(
        name=program.name,
        section=program.section,
        prog_type=program.prog_type,
        attach_type=program.attach_type,
        instructions=len(code) // 8,
        helpers=_helpers(code) if number or not job.request["load"] else [],
        fd=None,
        errno=number,
        said=said,
        log=log,
    )


def _describe_map(bpf_map: ObjectMap) -> MapReply:
    shape = bpf_map.shape
    inner = bpf_map.inner if shape[0] in OF_MAPS else None
    return MapReply(
        name=bpf_map.name,
        shape=shape,
        inner=inner.shape if inner else None,
        internal=bpf_map.internal,
        fd=None,
    )
