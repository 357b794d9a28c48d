"""How errors read."""

from __future__ import annotations

import errno

import pytest

from testbed.errors import MachineError, UsageError, errno_name, machine_error


def test_what_why_details_fix() -> None:
    error = MachineError("do this", "that happened", "mend it", "line 1\nline 2")
    assert str(error) == "do this: that happened\n    line 1\n    line 2\n  → mend it"


def test_exit_codes() -> None:
    assert int(UsageError("a", "b").exit_code) == 2
    assert int(MachineError("a", "b").exit_code) == 3


@pytest.mark.parametrize(
    ("where", "told"), [("/proc/self/x", "of /proc/self/x: 0 of 0 KiB are left"), ("", "")]
)
def test_how_much_is_left_where_it_is_known_where(where: str, told: str) -> None:
    """Of no other file system than the one that is full."""
    fix = machine_error("write it", OSError(errno.ENOSPC, "", where or None)).fix
    assert fix == f"make room on the file system {told}".strip()


def test_errno_by_name_whatever_its_sign() -> None:
    assert errno_name(-errno.EPERM) == errno_name(errno.EPERM) == "EPERM (Operation not permitted)"
