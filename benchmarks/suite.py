"""Section `suite`: how long the contract takes, whole and quick, and a scenario of it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET  # of a file that is our own
from contextlib import ExitStack
from pathlib import Path

from benchmarks.measure import ROOT, Contender, Limit, Options, Prepared, Row, Section, Taken, Target
from testbed.errors import MachineError

ROWS = (
    Row("suite.quick", "testbed check --quick", "s", "", Target("median", at_most=3), short="quick"),
    Row("suite.quick.scenario", "… by the number of its scenarios", "ms"),
    Row("suite.quick.own", "… a scenario's own time, median", "ms"),
    Row("suite.whole", "testbed check, every family", "s", "suite.quick", short="one process"),
    Row("suite.whole.scenario", "… by the number of its scenarios", "ms"),
    Row("suite.whole.own", "… a scenario's own time, median", "ms"),
    Row("suite.two", "testbed check -n 2", "s", "suite.whole"),
)
_WHOLE_ONLY = "measured without --quick"


def contract(key: str, folder: Path, *words: str, each: bool = True) -> Taken:
    """The contract as a whole process: imports, compilation, every scenario. `MachineError` if it failed."""
    junit = folder / "junit.xml"
    command = [sys.executable, "-m", "testbed", "check", *words, "--record", "off", "--junit", str(junit)]
    start = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise MachineError("measure the contract", f"it ended with {done.returncode}", "", _last(done))
    own = sorted(1e3 * float(case.get("time", 0)) for case in ET.parse(junit).iter("testcase"))  # noqa: S314
    taken = {key: [seconds]}
    if each:
        taken |= {f"{key}.scenario": [1e3 * seconds / len(own)], f"{key}.own": [own[len(own) // 2]]}
    return taken


def _last(done: subprocess.CompletedProcess[str]) -> str:
    return "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])


def prepare(options: Options, stack: ExitStack) -> Prepared:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    quick = Contender("quick", lambda: contract("suite.quick", folder, "--quick"))
    if options.quick:
        missing = [row.key for row in ROWS if not row.key.startswith("suite.quick")]
        return Prepared([quick], dict.fromkeys(missing, _WHOLE_ONLY))
    whole = Contender("whole", lambda: contract("suite.whole", folder), 2)
    two = Contender("two", lambda: contract("suite.two", folder, "-n", "2", each=False), 2)
    return Prepared([quick, whole, two])


SECTIONS = (
    Section(
        "suite",
        "The contract on the reference set, a process from its start to its end",
        ROWS,
        prepare,
        quick=Limit(2, 3, warm_up=0, least=1),
        whole=Limit(8, 45, warm_up=1),
    ),
)
