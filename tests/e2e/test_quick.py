"""`testbed check --quick` as a person runs it."""

from __future__ import annotations

from tests.conftest import Run

QUICKLY = ", each in one family, every 4th of the catalogue; without --quick: all, in all four"


def test_quick_says_what_it_left_out(testbed_command: Run) -> None:
    done = testbed_command("check", "--quick", "-k", "enrols or half_open", "-n", "1")
    assert (done.returncode, done.stderr) == (0, "")
    last = done.stdout.splitlines()[-1]
    assert last.startswith("4 passed in ")
    assert last.endswith(QUICKLY)


def test_quick_lists_what_it_would_run(in_process: Run) -> None:
    listed = in_process("check", "--quick", "--list").stdout.splitlines()
    everything = in_process("check", "--list").stdout.splitlines()
    assert set(listed) < set(everything)
