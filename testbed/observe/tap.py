"""The tap: every sockops callback of a lab, in order, recorded after the program under test ran.

Records nothing but what the kernel calls back. STATE_CB, for example, comes only for sockets on
which the program under test has set its flag: that is how the flag is proved.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack
from typing import overload

from testbed.bpf.attach import attach
from testbed.bpf.bcc_loader import SourceSet
from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.features import kernel_btf
from testbed.bpf.kinds import ProgramKind
from testbed.bpf.maps import RingReader
from testbed.bpf.own_program import load_own
from testbed.bpf.probe import has_helper
from testbed.bpf.program_set import ProgramSet
from testbed.closing import Closing
from testbed.data import data_dir
from testbed.errors import EventsLost, UsageError
from testbed.kernel.sockdiag import TcpState, socket_cookie
from testbed.lab.lab import Lab
from testbed.observe.callbacks import Callback, CallbackFlag, Op, decode_callback

_STATE = int(CallbackFlag.STATE)
_TOLD = 100  # callbacks of a story: five or six connections
_GET_NETNS_COOKIE = 122  # enum bpf_func_id; in sockops programs since Linux 5.15


def tap_sources(has_cookie: bool) -> SourceSet:
    """The tap's sources, for kernels with bpf_get_netns_cookie in sockops programs (5.15) or without."""
    bpf = data_dir("bpf")
    return SourceSet(
        name="tap",
        sources=(bpf / "tap.c",),
        include=(bpf / "include",),
        programs=(("tap", ProgramKind.SOCKOPS),),
        maps=("tap_events", "tap_lost"),
        defines=("HAVE_NETNS_COOKIE",) if has_cookie else (),
    )


class TapProgram(Closing):
    """The tap's program, loaded once a process; labs are tapped with `tap`."""

    def __init__(self, loader: ObjectLoader | None = None) -> None:
        """``loader`` is one that is there already."""
        kernel_btf()
        self._set: ProgramSet = load_own(
            tap_sources(has_helper(ProgramKind.SOCKOPS.prog_type, _GET_NETNS_COOKIE)), loader
        )
        self._ring = self._set.maps["tap_events"].reader

    def tap(self, lab: Lab) -> Tap:
        """Records the callbacks of a lab until the tap is closed. `UsageError` while another is open."""
        if self._set.in_use:
            raise UsageError(
                f"tap {lab!r}",
                "the program taps another lab, and its ring is one's at a time",
                "close that tap first",
            )
        return Tap(self._set, self._ring, lab)

    def close(self) -> None:
        self._set.close()


class Tap(Sequence[Callback], Closing):
    """The callbacks of one lab so far, oldest first. Reading takes in what has come meanwhile.

    `EventsLost` when the ring was full: what is there is then not all.
    """

    def __init__(self, program_set: ProgramSet, ring: RingReader, lab: Lab) -> None:
        self._lab = lab
        self._ring = ring
        self._lost_counter = program_set.maps["tap_lost"]
        self._lost_before = 0
        self._callbacks: list[Callback] = []
        self._last_watched: dict[int, Callback] = {}
        self._closed = False
        with ExitStack() as stack:
            program_set.in_use = True
            stack.callback(setattr, program_set, "in_use", False)
            self._ring.take()  # a lab before this one may have left some
            self._lost_before = self._lost()
            attach(program_set.programs["tap"], lab.observer_fd, stack)
            lab.witnesses.append(self)
            stack.callback(lab.witnesses.remove, self)
            self._undo = stack.pop_all()

    def _lost(self) -> int:
        """How many since this tap was made: the program counts on for all of its labs."""
        return int.from_bytes(self._lost_counter.get(bytes(4)) or b"", "little") - self._lost_before

    def _take_in(self) -> None:
        if self._closed:
            raise ValueError("the tap is closed")  # what comes now is another's
        for data in self._ring.take():
            made = decode_callback(data, self._lab.host_of_cookie)
            if made is not None:
                self._callbacks.append(made)
                if int(made.flags) & _STATE:
                    self._last_watched[made.cookie] = made

    def taken(self) -> int:
        """How many callbacks there are, whether any was lost or not."""
        self._take_in()
        return len(self._callbacks)

    def so_far(self) -> list[Callback]:
        """Those that there are, whether any was lost or not; also once the tap is closed."""
        if not self._closed:
            self._take_in()
        return list(self._callbacks)

    def read(self) -> None:
        """Takes in what has come."""
        self._take_in()
        if lost := self._lost():
            raise EventsLost(f"the tap lost {lost} callbacks: its ring was full; read it more often")

    def fileno(self) -> int:
        """A descriptor that is readable when a callback has come."""
        return self._ring.fileno()

    def of(self, sock: socket.socket, op: Op | None = None) -> list[Callback]:
        """The callbacks of one socket (by its cookie), of one kind if asked.

        Of a server's socket that is from ESTABLISHED on: what came before is its request's, which
        may have another cookie.
        """
        cookie = socket_cookie(sock)
        return [each for each in self if each.cookie == cookie and op in {None, each.op}]

    def pending(self, present: Set[int]) -> list[str]:
        """Sockets that have the STATE flag and are gone, whose callback to CLOSE has not come yet."""
        self.read()
        return [
            f"the callback to CLOSE of: {each}"
            for cookie, each in self._last_watched.items()
            if cookie not in present and not (each.op is Op.STATE and each.change[1] is TcpState.CLOSE)
        ]

    def story(self, which: Callable[[Callback], bool] | None = None) -> str:
        """The callbacks so far, or ``which`` of them: a line each, with the microseconds since the first."""
        lost = 0
        if not self._closed:
            self._take_in()
            lost = self._lost()
        if not self._callbacks:
            return "callbacks that fired: none"
        start = self._callbacks[0].time_ns
        told = [each for each in self._callbacks if which is None or which(each)]
        lines = [f"    {(each.time_ns - start) / 1000:>9.1f} µs  {each}" for each in told[:_TOLD]]
        if len(told) > _TOLD:
            lines.append(f"    … and {len(told) - _TOLD} more")
        title = "callbacks that fired" + (f" (and {lost} that were lost: the ring was full)" if lost else "")
        return "\n".join([f"{title}:", *lines])

    def __len__(self) -> int:
        self.read()
        return len(self._callbacks)

    @overload
    def __getitem__(self, index: int) -> Callback: ...
    @overload
    def __getitem__(self, index: slice) -> list[Callback]: ...
    def __getitem__(self, index: int | slice) -> Callback | list[Callback]:
        self.read()
        return self._callbacks[index]

    def __iter__(self) -> Iterator[Callback]:
        self.read()
        return iter(list(self._callbacks))

    def forget(self) -> None:
        """Lets go of what was recorded so far, and of what was lost, for who keeps count himself."""
        self._lost_before += self._lost()
        self._callbacks.clear()
        self._last_watched.clear()

    def abandon(self) -> None:
        """Leaves the program attached, for a child that was forked to detach; nothing more is read here."""
        self._closed = True
        self._undo.pop_all()

    def close(self) -> None:
        """Detaches; what was recorded stays readable through `story`."""
        self._closed = True
        self._undo.close()
