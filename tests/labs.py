"""Labs that stay up, as the tests have them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from testbed.keeper.end import take_down
from testbed.keeper.registry import living
from tests.conftest import ROOT

TESTBED = [sys.executable, "-m", "testbed"]


@contextmanager
def lab_up(name: str, *arguments: str) -> Iterator[dict[str, Any]]:
    """A lab by the command; yields what `ls` says of it."""
    done = subprocess.run(
        [*TESTBED, "up", *arguments, "--name", name], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    try:
        record = living(name)
        assert record is not None
        yield {"pid": record.pid, "said": done.stdout}
    finally:
        if (record := living(name)) is not None:
            take_down(record)
