"""Deadlines are written for an ordinary machine; a slow one, such as an emulated guest, has longer ones."""

from __future__ import annotations

import os

SLOWNESS = "TESTBED_SLOWNESS"
"""The environment variable that says how many times slower this machine is: 1 where it is not set."""


def scaled(seconds: float) -> float:
    """A deadline of so many seconds, on this machine."""
    try:
        return seconds * max(float(os.environ.get(SLOWNESS, "1")), 1.0)
    except ValueError:
        return seconds
