"""The pytest plugin: a test that takes `pair` and `mesh` has a fresh lab with the programs at work.

Fixtures, each made once a test except where said:

``family``       the family of the connections; a test that uses it, or `pair`, runs once in each
``pair``         client and server
``mesh``         the program set, attached, its state empty
``program_set``  the set, loaded once a run

The lab itself, its tap and its links are those of `testbed.pytest_lab`.
"""

# What these fixtures need is imported where it is used: this module is loaded in every run of
# pytest, also those that have nothing to do with the testbed.
from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from testbed.errors import TestbedError, UsageError, command, machine_error, ran_out
from testbed.kmesh.abi import Absent
from testbed.report.about import SETUP_ERROR, STORY, VIOLATED
from testbed.report.recording import HELD_LAB, ITEM, ORACLE, recorder_of, tell, telling_mesh

if TYPE_CHECKING:
    from testbed.bpf.program_set import ProgramSet
    from testbed.kmesh.mesh import Mesh
    from testbed.kmesh.oracle.oracle import Oracle
    from testbed.kmesh.profile import Profile
    from testbed.lab.bench import Bench
    from testbed.lab.family import Family
    from testbed.lab.host import Host
    from testbed.lab.lab import Lab
    from testbed.lab.pair import Pair
    from testbed.observe.tap import Tap

_OURS = {str(Path(__file__).resolve().parent), str(Path(pytest.__file__).parent.parent)}
FAMILIES = ("v4", "v6", "mapped", "mapped-client")


def parse_families(text: str) -> tuple[str, ...]:
    """The families of an option's value, each once; `ValueError` names what is none."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in FAMILIES:
            raise ValueError(f"{name!r} is no family: choose from {','.join(FAMILIES)}")
    return names


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("testbed", "sockops testbed")
    group.addoption(
        "--family",
        default=",".join(FAMILIES),
        metavar="F[,F…]",
        help=f"families that tests with connections run in (default: {','.join(FAMILIES)})",
    )
    group.addoption(
        "--one-family",
        action="store_true",
        help="run each test with connections in one of the families, the next one in another",
    )
    group.addoption(
        "--stories",
        action="store_true",
        help="send along with each report what happened in the lab, in words that two runs share",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "families(name, ...): the only ones that the test is about")
    try:
        parse_families(config.getoption("--family"))
    except ValueError as error:
        raise pytest.UsageError(f"--family: {error}") from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "family" in metafunc.fixturenames:
        from testbed.lab.family import Family

        names = parse_families(metafunc.config.getoption("--family"))
        marker = metafunc.definition.get_closest_marker("families")
        families = [Family(name) for name in names if marker is None or name in marker.args]
        metafunc.parametrize("family", families, ids=lambda family: family.value, scope="function")


@pytest.hookimpl(tryfirst=True)  # what -k chooses, it chooses among what is left
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test that is about none of the families asked for is left out, and not skipped."""
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        spec = getattr(item, "callspec", None)
        is_empty = (
            spec is not None
            and "family" in spec.params
            and not hasattr(spec.params["family"], "as_client")  # but pytest's mark of no value
        )
        (left_out if is_empty else kept).append(item)
    if config.getoption("--one-family"):
        from testbed.report.one_family import in_one_family

        kept, others = in_one_family(kept)
        left_out += others
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


@contextmanager
def _skipping_what_is_absent() -> Iterator[None]:
    """What the era or the set under test does not have is no failure: the test says what it needed."""
    try:
        yield
    except Absent as error:
        pytest.skip(str(error))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    item.config.stash[ITEM] = item
    with _skipping_what_is_absent():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    with _skipping_what_is_absent():
        yield
        oracle = item.stash.get(ORACLE, None)
        if oracle is not None:
            oracle.check()


def _asked_for(caught: pytest.ExceptionInfo[BaseException]) -> str:
    """The last line of the test's own: what follows within the testbed is of no interest."""
    own = [entry for entry in caught.traceback if _OURS.isdisjoint(map(str, Path(entry.path).parents))]
    return f"{own[-1].path}:{own[-1].lineno + 1}: {str(own[-1].statement).strip()}\n" if own else ""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    error = call.excinfo.value if call.excinfo is not None else None
    scarce = ran_out(error) is not None
    if scarce and not isinstance(error, TestbedError):
        assert error is not None
        error = machine_error(f"run {item.name}", error)
    if isinstance(error, TestbedError) and (scarce or report.when == "setup"):
        # no verdict on what is under test: the next ones would end so too
        report.longrepr = str(error)
        report.user_properties.append((SETUP_ERROR, json.dumps([error.exit_code, *error.args])))
    elif report.failed and call.excinfo is not None and isinstance(error, TestbedError):
        report.longrepr = f"{_asked_for(call.excinfo)}{error}"
    elif report.failed and isinstance(kinds := getattr(error, "kinds", None), tuple):
        report.longrepr = str(error)
        report.user_properties.append((VIOLATED, json.dumps(kinds)))
    elif report.failed and error is not None:
        tap = getattr(item, "funcargs", {}).get("tap")
        if tap is not None and recorder_of(item) is None and "callbacks that fired" not in str(error):
            report.sections.append(("sockops callbacks", tap.story()))
    return report


@pytest.fixture
def family() -> Any:
    """The family that this run of the test is in."""
    raise AssertionError("parametrized by pytest_generate_tests")


@pytest.fixture
def pair(lab: Lab, tap: Tap, family: Family) -> Pair:  # noqa: ARG001 (the tap tells a failure's story)
    """Client and server of the lab, connecting in the test's family."""
    from testbed.lab.pair import Pair

    return Pair(lab, family)


@pytest.fixture(scope="session")
def settings_as_loaded(program_set: ProgramSet, profile: Profile) -> dict[str, int]:
    """``monitoring`` and ``log_level`` of the set before anybody changed them, where it has them."""
    from testbed.kmesh.config import settings_of

    return settings_of(program_set, profile)


@pytest.fixture(scope="session")
def history(
    bench: Bench,
    program_set: ProgramSet,
    profile: Profile,
    settings_as_loaded: dict[str, int],  # noqa: ARG001 (what follows changes them)
) -> Iterator[None]:
    """Connections before the first of the tests: from then on every byte of the rings has been used.

    Ring memory is not zeroed: a field that a program forgets to write shows one of these.
    """
    from testbed.bpf.attach import attach
    from testbed.bpf.kinds import Target
    from testbed.kmesh.history import make_history

    with ExitStack() as stack:
        # The kernel changes its own code when the first program of a kind is attached anywhere, and
        # back when the last one goes: with one where nobody is, a test's are neither.
        for program in program_set.programs.values():
            if program.kind is not None and program.kind.target is Target.CGROUP:
                attach(program, bench.idle_fd, stack)
        make_history(bench, program_set, profile)
        yield


def _placed(lab: Lab) -> Host | None:
    """The host that the topology has the run's program set on; None for the whole lab.

    `UsageError` where it asks for other programs: those of a test are the run's.
    """
    asked = lab.topology.programs
    if not asked:
        return None
    if len(asked) > 1 or asked[0].objects:
        raise UsageError(
            f"have the programs of the topology {lab.topology.name} at work in a test",
            "a test has the run's program set, in one place",
            f"give objects by --object; `{command('up')}` brings up what the topology says",
        )
    return lab.hosts.get(asked[0].at)


@pytest.fixture
def mesh(
    pytestconfig: pytest.Config,
    program_set: ProgramSet,
    profile: Profile,
    history: None,  # noqa: ARG001 (it has happened)
    lab: Lab,
    tap: Tap,
) -> Iterator[Mesh]:
    """The program set at work in the lab, and under the eyes of the oracle.

    When the test has ended, everything that happened is held against the contract. What the program
    logged and the test did not clear fails the test too.
    """
    from testbed.kmesh.mesh import Mesh
    from testbed.kmesh.oracle.oracle import Oracle
    from testbed.lab.family import Family

    item = pytestconfig.stash[ITEM]
    spec = getattr(item, "callspec", None)
    if spec is not None and spec.params.get("family") is Family.V6:
        profile.require("ipv6")
    with Mesh(program_set, lab, profile, at=_placed(lab)) as made:
        item.stash[ORACLE] = Oracle(made, tap)
        with telling_mesh(item, made):
            made.manage(*(host for name, host in lab.hosts.items() if lab.topology.hosts[name].managed))
            yield made
        if HELD_LAB in item.stash:
            return
        complaints = made.complaints()
        if complaints:
            tell(item, "failed", f"the program logged: {complaints[0]}")
        if pytestconfig.getoption("--stories"):
            from testbed.kmesh.story import recorded_story

            lab.settle()
            item.user_properties.append((STORY, recorded_story(made, tap)))
    assert not complaints, f"the program logged: {'; '.join(map(str, complaints))}"


@pytest.fixture
def oracle(request: pytest.FixtureRequest, mesh: Mesh) -> Oracle:  # noqa: ARG001 (it is judged)
    """The oracle of the test's mesh, for who wants its word in the middle: it has the last one anyway."""
    judge: Oracle = request.node.stash[ORACLE]
    return judge
