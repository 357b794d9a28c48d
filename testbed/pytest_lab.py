"""The pytest plugin, labs: a lab of its own for each test, its callbacks, and gates on its links.

``lab``          the lab of the topology ``pair``, or of ``@pytest.mark.topology(…)``: a name, a path (looked
                 for beside the test's file first), or a `testbed.topology.model.Topology`
``tap``          every sockops callback of the lab, which is recorded from there on
``link``         the lab's first link, for gates: ``with link.drop(SynAck, nth=2):``
``bench``, ``tap_program``, ``gate_program``   what is made once a run

As in `testbed.pytest_plugin`, heavy imports are made where they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from testbed.report.recording import ITEM

if TYPE_CHECKING:
    from testbed.bpf.elf.loader import ObjectLoader
    from testbed.gates import GateProgram, Link
    from testbed.lab.bench import Bench
    from testbed.lab.lab import Lab
    from testbed.observe.tap import Tap, TapProgram
    from testbed.report.recording import Recording
    from testbed.topology.model import Topology

_BUCKETS = 512  # of a lab's table of connections: sock_diag walks them all, and a test has few


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "topology(name, path or object): the topology of the test's lab")


@pytest.fixture(scope="session")
def bench() -> Iterator[Bench]:
    """What all labs stand on: made once a run, after what dead runs left has been reaped.

    From then on the run ends in order by SIGTERM too, and a second Ctrl-C does not keep it from that.
    """
    from testbed.ending import in_order
    from testbed.lab.bench import Bench

    with in_order(), Bench(_BUCKETS) as made:
        yield made


@pytest.fixture(scope="session")
def tap_program(object_loader: ObjectLoader) -> Iterator[TapProgram]:
    """The tap's program, loaded once a run."""
    from testbed.observe.tap import TapProgram

    with TapProgram(object_loader) as loaded:
        yield loaded


# The fixtures of each test do without pytest's `request`, which is made anew by the slow way of a
# fixture's definition for each of them, and costs as much as ten scenarios' fixtures besides.
@pytest.fixture
def lab(pytestconfig: pytest.Config, bench: Bench) -> Iterator[Lab]:
    """A lab of its own for this test, up and ready to connect."""
    from testbed.lab.lab import Lab

    item = pytestconfig.stash[ITEM]
    marker = item.get_closest_marker("topology")
    wanted = marker.args[0] if marker else "pair"
    topology = _topology(item.path.parent, wanted) if isinstance(wanted, str | Path) else wanted
    with Lab(bench, topology) as made:
        made.holds = pytestconfig.getoption("--hold-on-fail", default=False)
        yield made


@lru_cache(maxsize=64)
def _topology(folder: Path, name: str | Path) -> Topology:
    from testbed.topology.load import load_topology

    beside = folder / name
    return load_topology(beside if beside.is_file() else name)


@pytest.fixture
def tap(
    pytestconfig: pytest.Config, tap_program: TapProgram, lab: Lab, recording: Recording
) -> Iterator[Tap]:
    """The callbacks of the test's lab, which is recorded from here on."""
    with tap_program.tap(lab) as made, recording.of(pytestconfig.stash[ITEM], lab, made):
        yield made


@pytest.fixture(scope="session")
def gate_program(object_loader: ObjectLoader) -> Iterator[GateProgram]:
    """The gates' program, loaded once a run."""
    from testbed.gates import GateProgram

    with GateProgram(object_loader) as loaded:
        yield loaded


@pytest.fixture
def link(gate_program: GateProgram, lab: Lab) -> Iterator[Link]:
    """The lab's first link; ``link.between("client", "router")`` is another."""
    from testbed.gates import Link

    with Link(lab, gate_program) as made:
        yield made
