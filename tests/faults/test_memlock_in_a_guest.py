"""Before Linux 5.11 the memory of maps counts against RLIMIT_MEMLOCK: in a guest of such a kernel."""

from __future__ import annotations

import pytest

from tests.conftest import Run


@pytest.mark.long
def test_a_low_limit_is_raised(testbed_command: Run) -> None:
    """By libbpf, which may: root has CAP_SYS_RESOURCE. The tap's rings alone take more than 64 KiB."""
    done = testbed_command(
        *("vm", "--kernel", "5.10", "--", "sh", "-c", "ulimit -l 64; ulimit -l; testbed doctor"), timeout=240
    )
    assert done.stdout.startswith("64\n"), done.stdout + done.stderr
    assert "\nok   tap " in done.stdout, done.stdout
