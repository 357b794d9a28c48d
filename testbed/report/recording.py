"""How a test's lab is recorded, and what is told of it when the test has ended.

Kept with the test's item, so that each of the plugins finds it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from testbed.errors import EventsLost, UsageError, WaitExpired, command, errno_name, file_error
from testbed.report.about import about

if TYPE_CHECKING:
    from testbed.graph.sketch import Marks
    from testbed.kmesh.mesh import Mesh
    from testbed.kmesh.oracle.compare import Violation
    from testbed.kmesh.oracle.oracle import Oracle
    from testbed.lab.lab import Lab
    from testbed.observe.capture import CaptureProgram
    from testbed.observe.events import Difference, Story
    from testbed.observe.recorder import Recorder
    from testbed.observe.states import StatesProgram
    from testbed.observe.tap import Tap

MODES = ("failures", "all", "off")
STORY_SECTION = "story"  # of a report
# A report's user properties: a number, a path, the name of a lab and a host of it.
KEPT, CAPSULE, HELD = "testbed_kept", "testbed_capsule", "testbed_held"
KEPT_RUN: pytest.StashKey[Path] = pytest.StashKey()
"""Of the run's stash: the folder that its stories are in, if there are any."""
UNKEPT: pytest.StashKey[str] = pytest.StashKey()
"""Of the run's stash: why not everything could be kept: the first such error."""
ITEM: pytest.StashKey[pytest.Item] = pytest.StashKey()
"""Of the run's stash: the test that runs."""
ORACLE: pytest.StashKey[Oracle] = pytest.StashKey()
"""Of an item: who judges what happens in its lab."""
_RECORDER: pytest.StashKey[Recorder] = pytest.StashKey()
_MESH: pytest.StashKey[Mesh] = pytest.StashKey()
_STORY: pytest.StashKey[tuple[Story, bytes | None]] = pytest.StashKey()
HELD_LAB: pytest.StashKey[str] = pytest.StashKey()
"""Of an item: the lab of it that was left up, which is another process's."""
_WIDTH = 120
_DRAWN = 3  # connections


def need_folders(record: str, run: Path | None, capsule: Path | None) -> None:
    """`UsageError` where what is asked for cannot be kept: before anything runs."""
    for option, folder in (("--run", run), ("--capsule", capsule)):
        if folder is None:
            continue
        if record == "off":
            raise UsageError(f"use {option}", "with --record off there is nothing to keep")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise file_error(f"make the directory {folder} ({option})", error) from error
        if option == "--run" and any(folder.iterdir()):
            raise UsageError(f"keep a run in {folder}", "there is something in it already")
        if not os.access(folder, os.W_OK):
            raise UsageError(f"write into {folder} ({option})", errno_name(errno.EACCES))


class Recording:
    """What is loaded once a run for recording, and how a test's lab is recorded."""

    def __init__(
        self,
        mode: str,
        capture: CaptureProgram | None = None,
        states: StatesProgram | None = None,
        absent: tuple[str, ...] = (),
    ) -> None:
        """``absent`` says what cannot be recorded here, and why."""
        self._mode = mode
        self._absent = absent
        self._capture = capture
        self._states = states

    @contextmanager
    def of(self, item: pytest.Item, lab: Lab, tap: Tap) -> Iterator[None]:
        """Records the lab of a test within the block."""
        if self._mode == "off":
            yield
            return
        from testbed.observe.recorder import Recorder

        with Recorder(lab, tap, capture=self._capture, states=self._states, absent=self._absent) as recorder:
            item.stash[_RECORDER] = recorder
            yield
        del item.stash[_RECORDER]


def held_words(held: str) -> str:
    """What to do with a lab that is left up (``NAME HOST``)."""
    name, host = held.split()
    return f"{command(f'shell {host} --lab {name}')}  ·  {command(f'down {name}')}"


def end_recording(item: pytest.Item) -> None:
    """Closes what records a test's lab: it is somebody else's from now on."""
    recorder = recorder_of(item)
    if recorder is not None:
        recorder.close()


def recorder_of(item: pytest.Item) -> Recorder | None:
    """The recorder of a test's lab, while it is up; None where nothing is recorded."""
    return item.stash.get(_RECORDER, None)


def mesh_of(item: pytest.Item) -> Mesh | None:
    """The program set at work in a test's lab, while it is up."""
    return item.stash.get(_MESH, None)


@contextmanager
def telling_mesh(item: pytest.Item, mesh: Mesh) -> Iterator[None]:
    """The story of a test is also its program set's: of its records and maps."""
    recorder = recorder_of(item)
    if recorder is not None:
        from testbed.kmesh.telling import MeshTeller

        recorder.add(MeshTeller(mesh, recorder.open_sockets, recorder.is_quiet))
    item.stash[_MESH] = mesh
    yield
    del item.stash[_MESH]


def tell(
    item: pytest.Item, verdict: str, message: str = "", differences: Sequence[Difference] = ()
) -> Story | None:
    """The story of a test, put together now and kept; None where nothing is recorded."""
    recorder = recorder_of(item)
    if recorder is None:
        return None
    from testbed.observe.packets import packets

    story = recorder.story(item.nodeid, about(item).title, verdict, message, differences)
    capture = recorder.capture
    captured = packets(story, capture.frames, capture.link_names) if capture is not None else None
    item.stash[_STORY] = story, captured
    return story


def violations_by(item: pytest.Item, error: BaseException | None) -> tuple[Violation, ...]:
    """What of the contract was not kept when a test failed; for other failures the oracle is asked now.

    Where the lab does not come to rest, nobody can tell what is still to come.
    """
    known = getattr(error, "violations", None)
    if isinstance(known, tuple):
        return known
    oracle = item.stash.get(ORACLE, None)
    if oracle is None or recorder_of(item) is None:
        return ()
    from testbed.kmesh.oracle.oracle import ContractViolation
    from testbed.kmesh.records import MalformedRecord

    try:
        oracle.check()
    except ContractViolation as violated:
        return violated.violations
    except (WaitExpired, EventsLost, MalformedRecord):
        pass
    return ()


def story_of(item: pytest.Item) -> tuple[Story, bytes | None] | None:
    """The story that was put together, and its packets as pcapng."""
    return item.stash.get(_STORY, None)


def forget(item: pytest.Item) -> None:
    """Lets go of what is kept with a test: pytest keeps the test to the end of the run."""
    if ORACLE in item.stash:
        del item.stash[ORACLE]
    if _STORY in item.stash:
        del item.stash[_STORY]


def drawn(story: Story) -> str:
    """What a failing test prints: where in the lab it was, and the connections concerned."""
    from testbed.graph.text import draw_text
    from testbed.observe.sequence import draw_story
    from testbed.topology.model import Topology

    concerned = story.concerned()
    # what is not as it should be mostly began with the first; a test that stopped did so at the last
    shown = concerned[:_DRAWN] if story.differences else concerned[-_DRAWN:]
    picture = draw_text(Topology.model_validate(story.topology), marks_of(story), _WIDTH)
    text = draw_story(story, _WIDTH, connections=[each.number for each in shown])
    if more := len(story.connections) - len(shown):
        text += f"\n{more} more connections: {command('story last')}"
    return f"{picture}\n\n{text}"


def marks_of(story: Story) -> Marks:
    """The hosts where something is not as it should be, and the links of the connections concerned."""
    from testbed.graph.sketch import Marks

    hosts = {each.host for each in story.differences if each.host is not None}
    links = {each.link for each in story.differences if each.link is not None}
    if story.differences:
        for connection in story.concerned():
            links |= {(one.host, one.to) for one in connection.events if one.host and one.to}
    return Marks(frozenset(hosts), frozenset(links))
