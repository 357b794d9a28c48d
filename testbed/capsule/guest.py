"""Replays a capsule in a guest of another kernel: it is taken along, and `testbed replay` run there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from testbed.capsule.contents import Capsule
from testbed.capsule.rate import Tally
from testbed.capsule.replay import Outcome, Request
from testbed.capsule.unpack import Instead, unpacked
from testbed.errors import ExitCode, TestbedError, UsageError
from testbed.runs.archive import pack
from testbed.runs.codec import encoded

_PLACE = "/root/taken.capsule.zip"
Output = Callable[[int, bytes], None]
Run = Callable[[Mapping[str, bytes], Sequence[str], Output], int]
"""Runs words in a guest that has these files, by path; tells their output, returns their exit code."""


def run_in_guest(capsule: Capsule, request: Request, run: Run) -> Outcome:
    """What came of the runs in a guest. What has to be agreed to has been; a guest has no compiler, so
    that changed sources are compiled here. `TestbedError` where nothing ran there.
    """
    files = {_PLACE: pack(_taken_along(capsule, request.instead))}
    words = ["testbed", "replay", _PLACE, "--times", str(request.times), "--yes", "--json"]
    if request.instead.here:
        words.append("--here")
    for number, path in enumerate(request.instead.objects):
        place = f"/root/object-{number}/{path.name}"  # two of them may have one name
        files[place] = path.read_bytes()
        words += ["--object", place]
    if request.family:
        words += ["--family", request.family]
    if request.test is not None:
        files[f"/root/{request.test.name}"] = request.test.read_bytes()
        words += ["--test", f"/root/{request.test.name}"]
    said: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
    code = run(files, words, lambda stream, data: said[stream].extend(data))
    try:
        told: Any = json.loads(said[1])
    except ValueError as error:
        raise _nothing(code, said[2].decode(errors="replace")) from error
    return _outcome(told)


def _taken_along(capsule: Capsule, instead: Instead) -> dict[str, bytes]:
    """The capsule's members, with objects in place of sources; without any where these are the testbed's."""
    members = {name: data for name, data in capsule.members.items() if not name.startswith("sources/")}
    if capsule.objects or not instead.foreign(capsule):
        return members
    with unpacked(capsule) as under_test:
        members |= {f"objects/{path.name}": path.read_bytes() for path in under_test.objects}
        members["scenario.json"] = encoded(replace(capsule.scenario, abi=under_test.abi))
    return members


def _outcome(told: dict[str, Any]) -> Outcome:
    tally = Tally(
        failed=told["failed"],
        passed=told["passed"],
        skipped=told["skipped"],
        ways=Counter({each["way"]: each["count"] for each in told["ways"]}),
        examples={each["way"]: each["example"] for each in told["ways"]},
        why_skipped=told["why_skipped"],
    )
    return Outcome(tally, told["interrupted"], told["seconds"], f"{told['kernel']} in a guest")


def _nothing(code: int, errors: str) -> TestbedError:
    """What the command in the guest said, in place of an outcome."""
    lines = errors.strip().splitlines() or [f"it ended with the exit code {code} and said nothing"]
    kind = UsageError if code == ExitCode.USAGE else TestbedError
    first = lines[0].removeprefix("testbed: cannot ")
    return kind("replay it in the guest", first, "", "\n".join(lines[1:]))
