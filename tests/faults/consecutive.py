"""The quick contract again and again, as a person runs it: each time in a fresh process.

usage: sudo .venv/bin/python -m tests.faults.consecutive N [--busy] [--nice 19] [--whole] [-k EXPR] [--anew]

The code is that of the beginning, whatever is edited meanwhile. Stops at the first run that is not passed,
and keeps what it printed. One JSON line a run is written to a file in the state directory, one file for each
way to run it; what has been run before of the same code counts towards N. ``--busy`` keeps every core at
other work. Exit code 0: N runs have passed, 1: one has not.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from testbed.kernel.syscalls import die_with_parent
from testbed.runs.folder import runs_dir

ROOT = Path(__file__).resolve().parent.parent.parent
_EXECUTED = ("testbed", "bpf", "topologies")
_DEADLINE_S = 600.0  # far beyond any run: one that takes longer hangs, and tells where
_COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?)")


@dataclass(frozen=True)
class Ended:
    """A run that has ended. ``seconds`` is all of the process's life; ``load`` is that of the last minute."""

    run: int
    outcome: str
    counts: dict[str, int]
    seconds: float
    load: float
    began: str
    code: str
    """A digest of the code that ran."""


@contextmanager
def busy() -> Iterator[None]:
    """Every core is at other work within the block; that ends with this process, however it ends."""
    parent = os.getpid()
    children = []
    try:
        for _ in os.sched_getaffinity(0):
            child = os.fork()
            if not child:
                _work(parent)
            children.append(child)
        yield
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _work(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_parent()
    block = bytes(1 << 16)
    while os.getppid() == parent:
        block = hashlib.sha512(block).digest() * 1024
    os._exit(0)


@contextmanager
def frozen() -> Iterator[Path]:
    """A copy of all that a run executes: what is edited meanwhile has no part in it."""
    with TemporaryDirectory() as folder:
        for name in _EXECUTED:
            shutil.copytree(ROOT / name, Path(folder, name))
        yield Path(folder)


def digest(root: Path) -> str:
    """Of all that a run executes."""
    found = hashlib.sha256()
    for path in sorted(each for name in _EXECUTED for each in (root / name).rglob("*.*")):
        if path.is_file() and path.suffix != ".pyc":
            found.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return found.hexdigest()[:12]


def run_once(number: int, command: Sequence[str], code: Path) -> tuple[Ended, str]:
    """The run, and what it printed. One that hangs is asked where (SIGABRT), and killed."""
    began, start = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(
        command,
        cwd=code,
        env={**environment, "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            printed, _ = process.communicate(timeout=_DEADLINE_S)
            outcome = f"exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            printed, _ = process.communicate()
            outcome = f"not ended after {_DEADLINE_S:.0f} s"
        finally:
            process.kill()
    last = printed.rstrip().rpartition("\n")[2]
    counts = {word: int(count) for count, word in _COUNT.findall(last)}
    if process.returncode == 0 and counts.get("passed"):
        outcome = "passed"
    seconds = round(time.monotonic() - start, 2)
    return Ended(number, outcome, counts, seconds, round(os.getloadavg()[0], 2), began, digest(code)), printed


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", type=int, metavar="N", help="how many are to pass")
    parser.add_argument("--busy", action="store_true", help="with every core at other work")
    parser.add_argument("--nice", type=int, default=0, metavar="N", help="at this niceness")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="check --quick (default)")
    which.add_argument("--whole", action="store_true", help="check, of all scenarios in all families")
    parser.add_argument("-k", default="", metavar="EXPR", help="these scenarios alone")
    parser.add_argument("--anew", action="store_true", help="begin another file; those before stay beside it")
    return parser.parse_args()


def _command(arguments: argparse.Namespace) -> list[str]:
    words = ["nice", "-n", str(arguments.nice)] if arguments.nice else []
    words += [sys.executable, "-X", "faulthandler", "-m", "testbed", "check"]
    words += [] if arguments.whole else ["--quick"]
    return [*words, "-k", arguments.k] if arguments.k else words


def _file(arguments: argparse.Namespace) -> Path:
    words = ["whole" if arguments.whole else "quick"]
    words += ["busy"] if arguments.busy else []
    words += [f"nice{arguments.nice}"] if arguments.nice else []
    words += [re.sub(r"\W+", "-", arguments.k)] if arguments.k else []
    return runs_dir().parent / "consecutive" / f"{'-'.join(words)}.jsonl"


def recorded(file: Path) -> list[Ended]:
    """The runs that the file has."""
    if not file.exists():
        return []
    return [Ended(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def put_aside(file: Path) -> None:
    """Gives what was recorded a name of its own: a failure that once was is not forgotten."""
    if file.exists():
        names = (file.with_name(f"{file.stem}-before-{number}.jsonl") for number in itertools.count(1))
        file.rename(next(each for each in names if not each.exists()))


def told(runs: Sequence[Ended]) -> str:
    """What the runs come to, in a line."""
    seconds = [each.seconds for each in runs]
    passed = sum(each.outcome == "passed" for each in runs)
    states = len({each.code for each in runs})
    return (
        f"{len(runs)} run{'s'[: len(runs) != 1]}, {passed} passed; {statistics.median(seconds):.2f} s each"
        f" ({min(seconds):.2f} – {max(seconds):.2f}); load {min(each.load for each in runs)} –"
        f" {max(each.load for each in runs)}; {states} state{'s'[: states != 1]} of the code"
    )


def _run_all(file: Path, before: list[Ended], wanted: int, command: Sequence[str], code: Path) -> int:
    runs = [*before]
    for number in itertools.takewhile(lambda each: each <= wanted, itertools.count(len(runs) + 1)):
        ended, printed = run_once(number, command, code)
        runs.append(ended)
        with file.open("a", encoding="utf-8") as record:
            record.write(f"{json.dumps(asdict(ended))}\n")
        sys.stdout.write(f"{number:>5}  {ended.outcome}  {ended.seconds:6.2f} s  load {ended.load}\n")
        sys.stdout.flush()
        if ended.outcome != "passed":
            kept = file.with_name(f"{file.stem}-{number}.txt")
            kept.write_text(printed, encoding="utf-8")
            sys.stdout.write(f"what it printed is in {kept}\n")
            break
    if runs:
        sys.stdout.write(f"{told(runs)}\n{file}\n")
    return int(any(each.outcome != "passed" for each in runs))


def main() -> None:
    arguments = _arguments()
    file = _file(arguments)
    file.parent.mkdir(parents=True, exist_ok=True)
    if arguments.anew:
        put_aside(file)
    before = recorded(file)
    if any(each.outcome != "passed" for each in before):
        sys.exit(f"run {before[-1].run} of {file} has not passed: begin again with --anew")
    with frozen() as code, busy() if arguments.busy else nullcontext():
        same = digest(code)
        if len(before) < arguments.runs and any(each.code != same for each in before):
            put_aside(file)  # no run of other code is one of these N
            before = []
        sys.exit(_run_all(file, before, arguments.runs, _command(arguments), code))


if __name__ == "__main__":
    main()
