"""The calls of libbpf.so.1 that attach to interfaces, typed. They act in the caller's network namespace."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from ctypes import POINTER, byref, c_int, c_size_t, c_uint32, c_void_p
from functools import cache
from threading import Thread
from typing import TypeVar

from testbed.acquired import acquired
from testbed.bpf.diagnostics import Captured, captured_stderr
from testbed.bpf.libbpf import Signature, checked, open_library

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
TC_INGRESS, TC_EGRESS = 1, 2  # enum bpf_tc_attach_point


class _TcHook(ctypes.Structure):
    """``struct bpf_tc_hook`` (libbpf 0.6)."""

    _fields_ = (("sz", c_size_t), ("ifindex", c_int), ("attach_point", c_int), ("parent", c_uint32))


class _TcOptions(ctypes.Structure):
    """``struct bpf_tc_opts`` (libbpf 0.6)."""

    _fields_ = (
        ("sz", c_size_t),
        ("prog_fd", c_int),
        ("flags", c_uint32),
        ("prog_id", c_uint32),
        ("handle", c_uint32),
        ("priority", c_uint32),
    )


_CALLS: tuple[Signature, ...] = (
    ("bpf_xdp_attach", c_int, (c_int, c_int, c_uint32, c_void_p)),
    ("bpf_tc_hook_create", c_int, (POINTER(_TcHook),)),
    ("bpf_tc_hook_destroy", c_int, (POINTER(_TcHook),)),
    ("bpf_tc_attach", c_int, (POINTER(_TcHook), POINTER(_TcOptions))),
    ("bpf_tc_detach", c_int, (POINTER(_TcHook), POINTER(_TcOptions))),
)


@cache
def _library() -> ctypes.CDLL:
    return open_library(_CALLS)


def _enter(netns_fd: int) -> None:
    """setns(2); Python has it from 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(netns_fd, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


def in_namespace(netns_fd: int, act: Callable[[], T]) -> T:
    """Calls ``act`` in a network namespace: on a thread that enters it and ends. Its errors are raised."""
    outcome: list[T] = []
    error: list[BaseException] = []

    def run() -> None:
        try:
            _enter(netns_fd)
            outcome.append(act())
        except BaseException as raised:  # noqa: BLE001 (raised again where it was asked for)
            error.append(raised)

    thread = Thread(target=run)
    thread.start()
    acquired("thread", thread.native_id)
    thread.join()
    if error:
        raise error[0]
    return outcome[0]


def xdp_attach(program_fd: int, ifindex: int) -> None:
    """Attaches without a link; a descriptor of -1 takes it back."""
    checked(_library().bpf_xdp_attach(ifindex, program_fd, 0, None), "bpf_xdp_attach")
    acquired("attachment", program_fd)


def tc_hook(ifindex: int) -> Callable[[], None] | None:
    """Makes the clsact qdisc that filters are in; returns what removes it, or None where there was one.

    Either stops the interface for a moment: what a process sends by it meanwhile is lost, and nobody
    is told (Linux 6.18: ``qdisc_graft`` calls ``dev_deactivate``, under which ``noop_qdisc`` drops).
    """
    hook = _TcHook(ctypes.sizeof(_TcHook), ifindex, TC_INGRESS | TC_EGRESS, 0)
    with captured_stderr(Captured()):  # libbpf tells that it is there already, which does not matter
        made = _library().bpf_tc_hook_create(byref(hook))
    if made == -errno.EEXIST:  # of a program at the other point, or somebody else's: it is not ours to remove
        return None
    checked(made, "bpf_tc_hook_create")

    def remove() -> None:
        checked(_library().bpf_tc_hook_destroy(byref(hook)), "bpf_tc_hook_destroy")

    return remove


def tc_attach(program_fd: int, ifindex: int, point: int) -> Callable[[], None]:
    """Attaches by a filter, in a clsact qdisc: `tc_hook`; returns what takes back what was made of both."""
    remove_hook = tc_hook(ifindex)
    at = _TcHook(ctypes.sizeof(_TcHook), ifindex, point, 0)
    options = _TcOptions(ctypes.sizeof(_TcOptions), program_fd)
    try:
        checked(_library().bpf_tc_attach(byref(at), byref(options)), "bpf_tc_attach")
        acquired("attachment", program_fd)
    except OSError:
        if remove_hook:
            remove_hook()
        raise

    def detach() -> None:
        options.prog_fd = options.flags = options.prog_id = 0
        checked(_library().bpf_tc_detach(byref(at), byref(options)), "bpf_tc_detach")
        if remove_hook:
            remove_hook()

    return detach
