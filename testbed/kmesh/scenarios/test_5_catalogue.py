"""Catalogue: every way to open, use and close, two by two"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from testbed.bpf.elf.loader import ObjectLoader
from testbed.errors import TestbedError
from testbed.kmesh.catalogue.case import Case
from testbed.kmesh.catalogue.eras import lacking
from testbed.kmesh.catalogue.run import run_case
from testbed.kmesh.catalogue.table import catalogue
from testbed.kmesh.mesh import Mesh
from testbed.kmesh.profile import Profile, load_profile
from testbed.kmesh.recognise import recognise
from testbed.lab.impatience import Impatience
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair
from testbed.observe.tap import Tap


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        families = {name.strip() for name in metafunc.config.getoption("--family").split(",")}
        cases = [case for case in _cases(metafunc.config) if case.family.value in families]
        metafunc.parametrize("case", cases, ids=[case.id for case in cases])


def _cases(config: pytest.Config) -> tuple[Case, ...]:
    """The era's. What cannot be recognised is told by the fixtures, to whoever needs it."""
    try:
        return catalogue(lacking(_profile(config)))
    except TestbedError:
        return catalogue()


def _profile(config: pytest.Config) -> Profile:
    objects, abi = config.getoption("--object"), config.getoption("--abi")
    if abi or not objects:
        return load_profile(abi or "main")
    with ObjectLoader() as loader:
        return recognise(loader.open([Path(name) for name in objects])).profile


@pytest.fixture(scope="session")
def impatience(object_loader: ObjectLoader) -> Iterator[Callable[[], Impatience]]:
    """The program that makes a lab impatient, loaded when it is needed first."""
    with ExitStack() as stack:
        yield cache(lambda: stack.enter_context(Impatience(object_loader)))


def test_open_use_close(
    impatience: Callable[[], Impatience], lab: Lab, mesh: Mesh, tap: Tap, case: Case
) -> None:
    """open, use, close"""
    run_case(case, Pair(lab, case.family), mesh, tap, impatience)
