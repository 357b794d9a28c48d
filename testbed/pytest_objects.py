"""The pytest plugin, objects: people's own ELF objects under test, as options and fixtures.

As in `testbed.pytest_plugin`, heavy imports are made where they are needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from testbed.bpf.elf.loader import ObjectLoader
    from testbed.bpf.program_set import ProgramSet
    from testbed.kmesh.profile import Profile
    from testbed.kmesh.subject import Subject
    from testbed.lab.attached import Attached
    from testbed.lab.lab import Lab
    from testbed.observe.tap import Tap

_SUBJECT = pytest.StashKey[list[str]]()
_WORKER_OUTPUT = "testbed_subject"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("testbed", "sockops testbed")
    group.addoption(
        "--object",
        action="append",
        default=[],
        metavar="FILE",
        help="a compiled object of the set under test, instead of the reference; once for each",
    )
    group.addoption(
        "--abi", default="", metavar="ERA|FILE", help="the objects' ABI profile (default: recognised)"
    )
    group.addoption(
        "--tail-call",
        action="append",
        default=[],
        metavar="MAP:INDEX=PROGRAM",
        help="an entry of a program array of the objects; once for each",
    )
    group.addoption(
        "--inner-map",
        action="append",
        default=[],
        metavar="MAP=TYPE:KEY:VALUE:ENTRIES",
        help="what the maps in a map of maps look like, where the objects do not say; once for each",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """xdist's workers have loaded the objects; each has loaded the same."""
    output = getattr(node, "workeroutput", {})
    if _WORKER_OUTPUT in output:
        node.config.stash[_SUBJECT] = output[_WORKER_OUTPUT]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What was under test: what of it was rejected, and what that leaves untested."""
    lines = config.stash.get(_SUBJECT, [])
    if lines:
        terminalreporter.section("objects under test")
        for line in lines:
            terminalreporter.write_line(line)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--object"):
        for name in config.getoption("--object"):
            if not Path(name).is_file():
                raise pytest.UsageError(f"--object {name}: there is no such file")
    elif config.getoption("--tail-call") or config.getoption("--inner-map"):
        raise pytest.UsageError("--tail-call and --inner-map are about objects, and --object names none")


@pytest.fixture(scope="session")
def object_loader() -> Iterator[ObjectLoader]:
    """Loads ELF objects."""
    from testbed.bpf.elf.loader import ObjectLoader

    with ObjectLoader() as made:
        yield made


@pytest.fixture(scope="session")
def subject(pytestconfig: pytest.Config, object_loader: ObjectLoader) -> Iterator[Subject | None]:
    """The objects given with ``--object``, loaded once a run, and their profile. None without any."""
    from testbed.bpf.elf.loader import LoadOptions
    from testbed.bpf.elf.words import parse_inner_map, parse_tail_call
    from testbed.kmesh.subject import load_subject

    config = pytestconfig
    paths = [Path(name) for name in config.getoption("--object")]
    if not paths:
        yield None
        return
    options = LoadOptions(
        tail_calls=tuple(map(parse_tail_call, config.getoption("--tail-call"))),
        inner_maps=dict(map(parse_inner_map, config.getoption("--inner-map"))),
    )
    with load_subject(object_loader, paths, config.getoption("--abi"), options) as loaded:
        lines = [f"{heading:<10}{words}" for heading, words in loaded.lines()]
        config.stash[_SUBJECT] = lines
        if hasattr(config, "workeroutput"):
            config.workeroutput[_WORKER_OUTPUT] = lines
        yield loaded


@pytest.fixture(scope="session")
def program_set(subject: Subject | None, object_loader: ObjectLoader) -> Iterator[ProgramSet]:
    """The set under test: the objects given with ``--object``, else the reference, compiled by bcc.

    Loaded once a run. Override it to test another one.
    """
    if subject is not None:
        yield subject.program_set
        return
    from testbed.kmesh.reference import load_reference

    with load_reference(object_loader) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def profile(pytestconfig: pytest.Config, subject: Subject | None) -> Profile:
    """The ABI profile of the set under test: as asked for, recognised, else that of the reference."""
    from testbed.kmesh.profile import load_profile

    abi: str = pytestconfig.getoption("--abi")
    return subject.profile if subject is not None and not abi else load_profile(abi or "main")


@pytest.fixture
def sockops_program(
    request: pytest.FixtureRequest,
    object_loader: ObjectLoader,
    lab: Lab,
    tap: Tap,  # noqa: ARG001 (it tells a failure's story)
) -> Iterator[Callable[..., Attached]]:
    """Loads objects of one's own as a set and attaches it to the lab: ``sockops_program("x.o")``.

    A path is looked for beside the test's file, then from the working directory. Keywords are those
    of `testbed.bpf.elf.loader.LoadOptions`. A program that is rejected fails the test.
    """
    from testbed.lab.attached import attach_objects

    with ExitStack() as stack:

        def load(*paths: str | os.PathLike[str], **options: Any) -> Attached:
            found = []
            for path in paths:
                beside = request.path.parent / path
                found.append(beside if beside.exists() else Path(path))
            return stack.enter_context(attach_objects(object_loader, found, lab, **options))

        yield load
