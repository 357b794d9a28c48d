"""Attaches programs to what their kind asks for, until an ExitStack closes.

A bpf_link wherever the kernel has one for that kind: it goes with its descriptor, so that a killed
process leaves nothing of it. Without links the attachment is taken back when the stack closes, and
ends at the latest with the lab's cgroup, map or namespace.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from testbed.bpf import libbpf, libbpf_net
from testbed.bpf.kinds import MapType, ProgramKind, Target
from testbed.bpf.own_cgroups import need_own
from testbed.bpf.program_set import Program
from testbed.errors import ProgramError, UsageError, command, errno_name

_OWN_NETNS = Path("/proc/self/ns/net")
_SOCKMAPS = {MapType.SOCKMAP, MapType.SOCKHASH}
_TAKEN = {errno.EBUSY, errno.EEXIST}
_NO_LINKS = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}  # of a kernel that has none for that kind
_NO_FILTERS = {errno.ENOENT, errno.EOPNOTSUPP}  # without sch_ingress


@dataclass(frozen=True)
class Interface:
    """An interface of a namespace: its index there."""

    netns_fd: int
    index: int
    name: str


def attach(program: Program, target: int | Interface, stack: ExitStack, *, links: bool = True) -> None:
    """Attaches a program until ``stack`` closes.

    ``target`` is a descriptor of a cgroup, of a sockhash or sockmap, or an `Interface`, as the
    program's kind asks for. Links: cgroups since Linux 5.7, XDP 5.9, tc 6.6, sockmaps 6.10.
    ``links=False`` does without; tc then stops the interface for a moment, unless it is `prepare`d.
    `ProgramError` when the kernel refuses, `UsageError` for a cgroup that is not this run's and for
    interfaces of the machine itself: labs touch nothing else.
    """
    kind = program.kind
    if kind is None:
        raise UsageError(
            f"attach {program.name} ({program.section})",
            "a lab has nothing that programs of its kind attach to",
        )
    if (kind.target is Target.INTERFACE) is not isinstance(target, Interface):
        raise _wrong_target(program, kind)
    _need_own(program, kind, target)
    try:
        if links:
            try:
                _link(program.fd, kind, target, stack)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                _without_link(program.fd, kind, target, stack)
        else:
            _without_link(program.fd, kind, target, stack)
    except OSError as error:
        if _target_of(target) is not kind.target:
            raise _wrong_target(program, kind) from None
        if error.errno in _TAKEN:
            why = f"something of that kind is attached there already ({errno_name(error.errno or 0)})"
            raise UsageError(f"attach {program.name} ({kind.section})", why) from error
        raise ProgramError(
            f"attach {program.name} ({kind.section})",
            errno_name(error.errno or 0),
            f"`{command('doctor')}` says what this kernel can attach",
        ) from error


def prepare(target: Interface) -> None:
    """From now on a tc program comes to an interface and goes, without a link, and no packet is lost.

    That itself stops the interface for a moment, as the first program would: it is for when nothing is
    under way. It lasts as long as the interface. Nothing is done where the kernel has no such filters.
    `UsageError` for interfaces of the machine itself.
    """
    what = f"prepare {target.name} for tc programs"
    _need_a_labs(target, what)
    try:
        libbpf_net.in_namespace(target.netns_fd, lambda: libbpf_net.tc_hook(target.index))
    except OSError as error:
        if error.errno not in _NO_FILTERS:
            raise ProgramError(what, errno_name(error.errno or 0)) from error


def _need_own(program: Program, kind: ProgramKind, target: int | Interface) -> None:
    what = f"attach {program.name} ({kind.section})"
    if not isinstance(target, Interface):
        if kind.target is Target.CGROUP:
            need_own(target, what)
    else:
        _need_a_labs(target, f"{what} to {target.name}")


def _need_a_labs(target: Interface, what: str) -> None:
    if os.path.samestat(os.fstat(target.netns_fd), _OWN_NETNS.stat()):
        raise UsageError(what, "it is an interface of the machine, not of a lab's host")


def _wrong_target(program: Program, kind: ProgramKind) -> UsageError:
    return UsageError(f"attach {program.name}", f"a program of {kind.section} needs {kind.target.value}")


def _target_of(target: int | Interface) -> Target:
    if isinstance(target, Interface):
        return Target.INTERFACE
    try:
        map_type = libbpf.map_info(target)[0]
    except OSError:  # EINVAL: no BPF object, so a cgroup's directory
        return Target.CGROUP
    return Target.SOCKMAP if map_type in _SOCKMAPS else Target.MAP


def _link(program_fd: int, kind: ProgramKind, target: int | Interface, stack: ExitStack) -> None:
    if isinstance(target, Interface):
        index = target.index
        link = libbpf_net.in_namespace(
            target.netns_fd, lambda: libbpf.link_create(program_fd, index, kind.attach_type)
        )
    else:
        link = libbpf.link_create(program_fd, target, kind.attach_type)
    stack.callback(os.close, link)


def _without_link(program_fd: int, kind: ProgramKind, target: int | Interface, stack: ExitStack) -> None:
    if not isinstance(target, Interface):
        flags = libbpf.ALLOW_MULTI if kind.target is Target.CGROUP else 0
        libbpf.program_attach(program_fd, target, kind.attach_type, flags)
        stack.callback(libbpf.program_detach, program_fd, target, kind.attach_type)
        return
    detach = libbpf_net.in_namespace(target.netns_fd, lambda: _to_interface(program_fd, kind, target.index))
    stack.callback(libbpf_net.in_namespace, target.netns_fd, detach)


def _to_interface(program_fd: int, kind: ProgramKind, index: int) -> Callable[[], None]:
    """By netlink, in the namespace of the caller. Returns what takes it back, there too."""
    if kind is ProgramKind.XDP:
        libbpf_net.xdp_attach(program_fd, index)
        return lambda: libbpf_net.xdp_attach(-1, index)
    egress = kind is ProgramKind.TC_EGRESS
    return libbpf_net.tc_attach(program_fd, index, libbpf_net.TC_EGRESS if egress else libbpf_net.TC_INGRESS)
