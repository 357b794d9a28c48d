"""Gates, races and netem on another kernel, which has netem."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guests import vm

FILES = [Path(__file__).parent / f"test_{name}.py" for name in ("gates", "races", "netem")]


@pytest.mark.long
def test_gates_and_netem_in_a_guest() -> None:
    taken = [word for file in FILES for word in ("--with", str(file))]
    words = ["pytest", "-q", "--family", "v4,v6", "--record", "off", "-p", "no:cacheprovider"]
    done = vm(*taken, "--", *words, *(f"/root/{file.name}" for file in FILES))
    last = done.stdout.decode().splitlines()[-1]
    assert done.returncode == 0, done.stdout.decode()
    assert "passed" in last
    assert "skipped" not in last
