"""A process is told to end: by the first signal in order, by the third at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer

from testbed.__main__ import _run
from testbed.ending import SIGNALS, Ending, Terminated, in_order, undisturbed
from testbed.lab.wait import eventually

HANDLERS: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """As a process has them that is not started in the background."""
    before = {number: signal.signal(number, handler) for number, handler in HANDLERS.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_the_first_one_is_raised(number: signal.Signals) -> None:
    kind = KeyboardInterrupt if number is signal.SIGINT else Terminated
    with pytest.raises(KeyboardInterrupt) as caught, in_order():
        signal.raise_signal(number)
    assert type(caught.value) is kind
    assert {number: signal.getsignal(number) for number in SIGNALS} == HANDLERS


def test_the_second_one_is_answered(capfd: pytest.CaptureFixture[str]) -> None:
    undone: list[str] = []

    def act() -> None:
        with in_order(), ExitStack() as stack:
            stack.callback(undone.append, "all of it")
            stack.callback(signal.raise_signal, signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        act()
    assert undone == ["all of it"]
    assert capfd.readouterr().err.count("\n") == 1


def test_the_third_one_ends_it() -> None:
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            ending = Ending()
            for number in SIGNALS:
                signal.signal(number, ending)
            for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
                try:
                    signal.raise_signal(number)
                except KeyboardInterrupt:
                    continue
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM


def test_its_exit_code() -> None:
    ending = Ending()
    assert ending.code == 0
    with pytest.raises(Terminated):
        ending(signal.SIGTERM, None)
    assert (ending.first, ending.code) == (signal.SIGTERM, 143)


def test_once_it_is_over_none_is_heard() -> None:
    ending = Ending()
    ending.is_over = True
    ending(signal.SIGINT, None)
    assert ending.first == 0


def test_what_others_handle_or_ignore_is_left_to_them() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with in_order():
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_thread_sets_none() -> None:
    def enter() -> None:
        with in_order():
            found.append(signal.getsignal(signal.SIGTERM))

    found: list[object] = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [HANDLERS[signal.SIGTERM]]


def test_undisturbed() -> None:
    done: list[str] = []

    def act() -> None:
        with in_order(), undisturbed():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        act()
    assert done == ["all of it"]


def test_undisturbed_beside_a_thread_that_takes_the_signal() -> None:
    """As a worker of xdist has one."""
    done: list[str] = []
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()

    def act() -> None:
        with in_order(), undisturbed():
            signal.pthread_kill(other.ident or 0, signal.SIGINT)
            eventually(lambda: not other_is_pending(), awaited="the signal, taken")
            done.append("all of it")

    def other_is_pending() -> bool:
        status = Path(f"/proc/self/task/{other.native_id}/status").read_text(encoding="utf-8")
        return any(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigPnd"))

    try:
        with pytest.raises(KeyboardInterrupt):
            act()
    finally:
        over.set()
        other.join()
    assert done == ["all of it"]
    assert {number: signal.getsignal(number) for number in SIGNALS} == HANDLERS


@pytest.mark.parametrize(
    ("raised", "said"),
    [(KeyboardInterrupt, "testbed: interrupted\n"), (typer.Exit(130), "")],  # a command that has told it
)
def test_an_interrupt_is_told_once(
    raised: type[BaseException] | BaseException, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()

    @app.command()
    def command() -> None:
        raise raised

    assert _run(partial(app, []), Ending()) == 130
    assert capsys.readouterr().err == said
