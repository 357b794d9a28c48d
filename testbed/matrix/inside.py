"""What a guest does for the matrix: a pytest session that is collected, then waits for the host's word.

Messages from the host: ``prepare`` (what is under test; then everything that is made once a session is
made), ``settle`` (before a snapshot), and ``run`` (which items, by their numbers in the collection).
To the host: ``collected``, ``prepared`` or ``fatal``, ``settled``, ``start`` and ``result`` of each item,
``done``.
"""

from __future__ import annotations

import base64
import gc
import hashlib
import importlib
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.since import too_new
from testbed.guest.inside.agent import wake
from testbed.guest.inside.kmsg import KernelLog
from testbed.guest.inside.port import Port
from testbed.matrix.bpf_support import missing_bpf
from testbed.report.results import Collector
from testbed.report.session import Selection, only_ours

WARM = Path(__file__).parent / "warm"
_LATE = ("scapy.layers.inet", "scapy.layers.inet6", "scapy.layers.l2")
_GARBAGE = 20_000
"""New objects before a collection looks through them: memory is cheaper than time in a guest."""
_PLACE = Path("/tmp/objects")  # noqa: S108 (the guest's)


def digest_of(nodeids: Iterable[str]) -> str:
    """Stands for a collection: the host's and the guest's are to be the same."""
    return hashlib.sha256("\n".join(nodeids).encode()).hexdigest()


def main(port: Port) -> None:
    """Runs the session; returns when the host has no more to ask for."""
    collector = Collector()
    arguments = [*Selection().arguments(), str(WARM), "-o", "verbosity_assertions=2"]
    with only_ours():
        pytest.main(arguments, plugins=[collector, Session(port, collector)])
    if collector.collection_errors:
        port.send(
            event="fatal", words=["collect the scenarios", "\n".join(collector.collection_errors), "", ""]
        )


class Session:
    """A pytest plugin: its loop over the items is led by the host."""

    def __init__(self, port: Port, collector: Collector) -> None:
        self._port = port
        self._collector = collector
        self._log = KernelLog()
        self._warm: pytest.Item | None = None
        self._items: list[pytest.Item] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._warm = next(item for item in session.items if item.path.is_relative_to(WARM))
        self._items = [item for item in session.items if item is not self._warm]
        digest = digest_of(item.nodeid for item in self._items)
        self._port.send(event="collected", digest=digest, count=len(self._items))
        while True:
            message = self._port.receive()
            wake(message)
            if message["event"] == "prepare":
                self._prepare(session.config, message)
            elif message["event"] == "settle":
                _settle()
                self._port.send(event="settled")
            else:
                self._run([self._items[number] for number in message["items"]], message["items"])
                return True

    def _prepare(self, config: pytest.Config, message: dict[str, Any]) -> None:
        if why := missing_bpf():
            self._port.send(event="no_bpf", why=why)
            return
        objects = _objects(message["objects"])
        config.option.object = [str(path) for path in objects]
        for name in ("abi", "tail_call", "inner_map"):
            if name in message:
                setattr(config.option, name, message[name])
        assert self._warm is not None, "it is collected"
        runtestprotocol(self._warm, log=True, nextitem=self._items[0])
        self._collector.results.pop(self._warm.nodeid)  # what it violates, others will
        fatal = self._collector.fatal
        if fatal is not None and (words := _too_new(objects)):
            self._port.send(event="lacks", why="; ".join(words))
        elif fatal is not None:
            self._port.send(event="fatal", code=int(fatal.exit_code), words=list(fatal.args))
        else:
            self._port.send(event="prepared", splat=self._log.splat())

    def _run(self, items: Sequence[pytest.Item], numbers: Sequence[int]) -> None:
        for item, number, after in zip(items, numbers, [*items[1:], None], strict=True):
            self._port.send(event="start", item=number)
            runtestprotocol(item, log=True, nextitem=after)
            result = self._collector.results[item.nodeid]
            outcome, details = result.outcome, result.details
            if splat := self._log.splat():
                outcome, details = "failed", f"the kernel complained while this ran:\n{splat}\n\n{details}"
            self._port.send(
                event="result",
                item=number,
                outcome=outcome,
                seconds=round(result.seconds, 4),
                details=details,
                violated=result.violated,
            )
        self._port.send(event="done")


def _objects(sent: Sequence[tuple[str, str]]) -> list[Path]:
    """The files under test that were sent (zlib, base64); none when it is the reference."""
    if not sent:
        return []
    _PLACE.mkdir(exist_ok=True)
    paths = []
    for name, data in sent:
        path = _PLACE / name
        path.write_bytes(zlib.decompress(base64.b64decode(data)))
        paths.append(path)
    return paths


def _too_new(objects: Sequence[Path]) -> list[str]:
    """What the objects need of a newer kernel than this one."""
    words: list[str] = []
    if objects:
        with ObjectLoader() as loader:
            for info in loader.open(objects):
                words += too_new(info, info.path.read_bytes(), os.uname().release)
    return words


def _settle() -> None:
    """What a snapshot had better have: modules that some scenario will import, and no garbage."""
    for name in _LATE:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE)
