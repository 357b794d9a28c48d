"""What Python has no audit event for, said while tests run: descriptors from functions of ``os``; threads.

Threads have an event from Python 3.12 on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

from testbed.bill.trace import Trace

_FUNCTIONS = {
    "dup": "descriptor",
    "eventfd": "eventfd",
    "memfd_create": "memory",
    "openpty": "terminal",
    "pidfd_open": "pidfd",
    "pipe": "pipe",
    "pipe2": "pipe",
}


class _Saying:
    """A function that says what it returned. Like a built-in, it is no method where a class has it."""

    def __init__(self, function: Callable[..., Any], say: Callable[[Any, tuple[Any, ...]], None]) -> None:
        self._function = function
        self._say = say
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        made = self._function(*arguments, **options)
        self._say(made, arguments)
        return made

    def __repr__(self) -> str:
        return repr(self._function)


@contextmanager
def saying(trace: Trace) -> Iterator[None]:
    """Until the block ends; who has imported such a function by its own name before is not heard."""
    before: list[tuple[ModuleType, str, Any]] = [(os, name, getattr(os, name)) for name in _FUNCTIONS]
    before.append((threading, "_start_new_thread", getattr(threading, "_start_new_thread", None)))
    for module, name, function in before:
        if function is not None:
            say = partial(_descriptors, trace, _FUNCTIONS[name]) if module is os else partial(_thread, trace)
            setattr(module, name, _Saying(function, say))
    try:
        yield
    finally:
        for module, name, function in before:
            if function is not None:
                setattr(module, name, function)


def _descriptors(trace: Trace, kind: str, made: int | tuple[int, ...], _arguments: tuple[Any, ...]) -> None:
    for fd in made if isinstance(made, tuple) else (made,):
        trace.descriptor(kind, fd)


def _thread(trace: Trace, _number: int, arguments: tuple[Any, ...]) -> None:
    trace.thread(getattr(arguments[0], "__self__", None))
