"""How errors read."""

from __future__ import annotations

import errno

from testbed.errors import MachineError, UsageError, errno_name


def test_what_why_details_fix() -> None:
    error = MachineError("do this", "that happened", "mend it", "line 1\nline 2")
    assert str(error) == "do this: that happened\n    line 1\n    line 2\n  → mend it"


def test_exit_codes() -> None:
    assert int(UsageError("a", "b").exit_code) == 2
    assert int(MachineError("a", "b").exit_code) == 3


def test_errno_by_name_whatever_its_sign() -> None:
    assert errno_name(-errno.EPERM) == errno_name(errno.EPERM) == "EPERM (Operation not permitted)"
