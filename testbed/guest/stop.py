"""Tells guests that wait in other threads that nobody wants them any more."""

from __future__ import annotations

import os
import select

from testbed.closing import Closing


class Stopped(Exception):
    """The guest was ended because it was asked for."""


class Stop(Closing):
    """A descriptor that is readable once `set` was called. It can be waited for by any number of guests."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """To be polled."""
        return self._fd

    def set(self) -> None:
        """Ends them all."""
        os.eventfd_write(self._fd, 1)

    @property
    def is_set(self) -> bool:
        """Whether `set` was called."""
        return bool(select.select([self._fd], [], [], 0)[0])

    def heed(self) -> None:
        """`Stopped`: what a guest does when the descriptor is readable."""
        raise Stopped

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
