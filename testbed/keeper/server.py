"""The keeper's loop: answers requests, sends what happens to who watches, until it is to stop.

One thread and one poll; nothing here waits for a client. Whatever a client sends or leaves unread is
its own trouble: it gets an error, or is let go.
"""

from __future__ import annotations

import base64
import os
import select
import signal
import socket
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from testbed.acquired import acquired
from testbed.closing import Closing
from testbed.ending import SIGNALS, heard
from testbed.errors import TestbedError, UsageError, machine_error, ran_out
from testbed.keeper import answers, protocol
from testbed.keeper.kept import Kept
from testbed.keeper.links import find_link, impair
from testbed.keeper.listener import Listener
from testbed.keeper.live import Batch, Live, Programs, as_json, drop_unwatched, unwatched_filenos
from testbed.keeper.maps import all_maps, one_map
from testbed.kmesh.abi import Absent

_CLIENTS = 64
_UNSENT = 256  # messages that may wait for a client to read
_AT_ONCE = 64  # events or frames in a message

Message = Mapping[str, object]


class Stopped(Exception):
    """The keeper was told to end."""


class Stop:
    """Whether this process was told to end: by SIGTERM, SIGINT or SIGHUP. Readable from then on."""

    def __init__(self) -> None:
        self.requested = False
        self._readable, wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        acquired("pipe", self._readable)
        acquired("pipe", wakeup)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._note)
        heard()

    def _note(self, *_: object) -> None:
        self.requested = True

    def fileno(self) -> int:
        return self._readable

    def check(self) -> None:
        """`Stopped` when it is so."""
        if self.requested:
            raise Stopped


@dataclass(eq=False)
class _Client:
    """Somebody who asks. ``wants`` makes messages of what happens, for who watches."""

    sock: socket.socket
    unsent: deque[Message] = field(default_factory=deque)
    wants: Callable[[Batch], list[Message]] | None = None
    is_last: bool = False
    """What is unsent is the last that it gets."""
    refusal: TestbedError | None = None
    """What it is told, whatever it asks."""


class Server(Closing):
    """Answers for a lab on a listening socket."""

    def __init__(self, kept: Kept, listener: socket.socket, stop: Stop) -> None:
        self._kept = kept
        self._listener = Listener(listener, kept.name)
        self._stop = stop
        self._clients: dict[int, _Client] = {}
        self._live: Live | None = None
        self._undo = ExitStack()
        self._programs = self._undo.enter_context(Programs())

    def run(self) -> None:
        """Until it is to stop."""
        while not self._stop.requested:
            ready = dict(self._poll())
            if self._listener.fileno() in ready:
                self._accept()
            for client in list(self._clients.values()):
                events = ready.get(client.sock.fileno(), 0)
                if events & ~select.POLLOUT:
                    self._hear(client)
            self._share()
            for client in list(self._clients.values()):
                self._flush(client)

    def _poll(self) -> list[tuple[int, int]]:
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        if self._listener.fileno() >= 0:
            poll.register(self._listener, select.POLLIN)
        for fd in unwatched_filenos(self._kept) if self._live is None else self._live.filenos():
            poll.register(fd, select.POLLIN)
        for client in self._clients.values():
            poll.register(client.sock, select.POLLIN | (select.POLLOUT if client.unsent else 0))
        return poll.poll()

    def _accept(self) -> None:
        accepted = self._listener.accept()
        if accepted is None:
            return
        sock, refusal = accepted
        sock.setblocking(False)
        client = _Client(sock, refusal=refusal)
        self._clients[sock.fileno()] = client
        if len(self._clients) > _CLIENTS:
            error = TestbedError(f"ask the lab {self._kept.name}", f"{_CLIENTS} clients ask it already")
            client.unsent.append(protocol.error_message(error))
            client.is_last = True

    def _let_go(self, client: _Client) -> None:
        self._clients.pop(client.sock.fileno(), None)
        client.sock.close()
        self._listener.restore()
        if self._live is not None and not any(each.wants for each in self._clients.values()):
            self._live.close()
            self._live = None

    def _hear(self, client: _Client) -> None:
        try:
            data = client.sock.recv(protocol.PACKET)  # descriptors that come with it are closed by the kernel
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or client.wants is not None:
            self._let_go(client)  # who watches has nothing to say but that it goes
            return
        try:
            answer, fds = self._answer(client, protocol.parse_request(data))
        except (TestbedError, Absent, OSError, AssertionError) as error:
            answer, fds = protocol.error_message(_as_error(error)), ()
        except Exception as error:  # noqa: BLE001 (a fault in one answer is no reason to end the lab)
            traceback.print_exc()
            answer, fds = protocol.error_message(_fault(error, self._kept)), ()
        if client.unsent:
            self._let_go(client)  # it asks on, and reads no answer
            return
        try:
            _send(client.sock, answer, fds)
        except OSError:
            self._let_go(client)

    def _answer(self, client: _Client, request: protocol.Request) -> tuple[Message, Sequence[int]]:
        if client.refusal is not None:
            raise client.refusal
        match request:
            case protocol.Enter(host=name):
                host = self._kept.host(name)
                return {"value": {"lab": self._kept.name}}, (host.namespace.netns_fd, host.cgroup_fd)
            case protocol.Watch(hosts=names):
                hosts = {self._kept.host(name).name for name in names}
                return self._subscribe(client, lambda batch: _events(batch, hosts)), ()
            case protocol.Packets(host=name, interface=interface):
                link = find_link(self._kept, f"{name}:{interface}")
                told = self._subscribe(client, lambda batch: _frames(batch, link.number))
                return {**told, "link": link.name}, ()
            case _:
                return {"value": self._value(request)}, ()

    def _value(self, request: protocol.Request) -> object:
        """The answer to what needs nothing but one."""
        kept = self._kept
        match request:
            case protocol.About():
                return answers.about(kept)
            case protocol.Inspect():
                return answers.inspect(kept)
            case protocol.Maps(name=name):
                return one_map(kept, name) if name else all_maps(kept)
            case protocol.Manage(host=name, on=on):
                return answers.manage(kept, name, on)
            case protocol.Impair(link=link, words=words):
                return impair(kept, link, words)
        raise AssertionError(f"nobody answers {request!r}")

    def about(self) -> answers.About:
        """The lab in short."""
        return answers.about(self._kept)

    def _subscribe(self, client: _Client, wants: Callable[[Batch], list[Message]]) -> Message:
        if self._live is None:
            drop_unwatched(self._kept)
            self._live = Live(self._kept, self._programs)
        client.wants = wants
        return {"value": {"start_ns": time.monotonic_ns()}}

    def _share(self) -> None:
        """What has happened, to who watches."""
        if self._live is None:
            drop_unwatched(self._kept)
            return
        batch = self._live.drain()
        if not batch:
            return
        for client in self._clients.values():
            if client.wants is None or client.is_last:
                continue
            client.unsent += client.wants(batch)
            if len(client.unsent) > _UNSENT:
                left = len(client.unsent)
                client.unsent.clear()
                client.unsent.append({"dropped": f"you read too slowly: {left} messages were not sent"})
                client.is_last = True

    def _flush(self, client: _Client) -> None:
        try:
            while client.unsent:
                protocol.send(client.sock, client.unsent[0])
                client.unsent.popleft()
        except BlockingIOError:
            return
        except OSError:
            self._let_go(client)
            return
        if client.is_last:
            self._let_go(client)

    def close(self) -> None:
        """Lets everybody go. Who watches is told when that is because the lab is taken down."""
        for client in list(self._clients.values()):
            if client.wants is not None and self._stop.requested and not client.is_last:
                client.unsent.append({"down": True})
                self._flush(client)
            self._let_go(client)
        self._undo.close()
        self._listener.close()


def _send(sock: socket.socket, answer: Message, fds: Sequence[int]) -> None:
    """An answer; a long one takes a descriptor more, and where there is none this is said instead."""
    try:
        protocol.send(sock, answer, fds)
    except OSError as error:
        if ran_out(error) is None:
            raise
        protocol.send(sock, protocol.error_message(machine_error("answer", error)))


def _as_error(error: BaseException) -> TestbedError:
    return error if isinstance(error, TestbedError) else UsageError("do that", str(error))


def _fault(error: Exception, kept: Kept) -> TestbedError:
    why = f"a fault in the testbed itself: {type(error).__name__}: {error}"
    return TestbedError("answer", why, f"please report it, with {kept.log}")


def _events(batch: Batch, hosts: set[str]) -> list[Message]:
    told = [
        as_json(event)
        for event in batch.events
        if not hosts or event.host is None or event.host in hosts or event.to in hosts
    ]
    return [*_chunks("events", told), *({"note": note} for note in batch.notes)]


def _frames(batch: Batch, link: int) -> list[Message]:
    told = [
        (frame.time_ns, frame.sender, frame.receiver, frame.length, base64.b64encode(frame.data).decode())
        for frame in batch.frames
        if frame.link == link
    ]
    lost: list[Message] = [{"lost": batch.frames_lost}] if batch.frames_lost else []
    return [*_chunks("frames", told), *lost]


def _chunks(name: str, told: list[Any]) -> list[Message]:
    return [{name: told[start : start + _AT_ONCE]} for start in range(0, len(told), _AT_ONCE)]
