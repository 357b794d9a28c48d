"""The table of scenarios: nothing that can be combined is left out, and nothing else is in it."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations

import pytest

from testbed.kmesh.catalogue.case import (
    DIMENSIONS,
    UNCONNECTED,
    Case,
    Close,
    Config,
    Managed,
    Open,
    Route,
    Traffic,
    can_combine,
    values_of,
)
from testbed.kmesh.catalogue.eras import lacking
from testbed.kmesh.catalogue.run import CLOSES, OPENS, TRAFFIC
from testbed.kmesh.catalogue.table import catalogue, pairs_to_cover
from testbed.kmesh.profile import Profile, builtin_profiles
from testbed.lab.family import Family

CASES = catalogue()


def test_every_pair_that_can_meet_meets() -> None:
    met = {pair for case in CASES for pair in combinations(values_of(case), 2)}
    assert [pair for pair in pairs_to_cover() if pair not in met] == []


def test_a_pair_is_left_out_only_where_it_is_excluded() -> None:
    """By the two themselves, or by what the one leaves of a dimension for the other."""
    covered = set(pairs_to_cover())
    left_out = [
        (one, other)
        for dimension, another in combinations(DIMENSIONS, 2)
        for one in dimension
        for other in another
        if can_combine(one, other) and (one, other) not in covered
    ]
    assert left_out == []


@pytest.mark.parametrize("values", DIMENSIONS, ids=lambda values: type(values[0]).__name__)
def test_every_value_is_in_some_scenario(values: tuple[object, ...]) -> None:
    assert set(values) <= {value for case in CASES for value in values_of(case)}


def test_no_scenario_has_what_excludes_itself() -> None:
    for case in CASES:
        for one, other in combinations(values_of(case), 2):
            assert can_combine(one, other), f"{case}: {one} with {other}"


def test_there_are_enough_and_no_two_are_the_same() -> None:
    assert 250 <= len(CASES) <= 400
    assert len({case.id for case in CASES}) == len({str(case) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("profile", builtin_profiles(), ids=lambda profile: profile.era)
def test_an_era_has_a_table_of_its_own(profile: Profile) -> None:
    """Without what it lacks, whole in all the rest."""
    without = lacking(profile)
    cases = catalogue(without)
    assert not [case for case in cases if without.intersection(values_of(case))]
    met = {pair for case in cases for pair in combinations(values_of(case), 2)}
    assert met.issuperset(pairs_to_cover(without))
    assert len(cases) >= 150
    assert without or cases == CASES


def test_the_table_is_the_same_in_every_process() -> None:
    """Whatever the hashes are: workers that collect different tests cannot share them."""
    script = "from testbed.kmesh.catalogue.table import catalogue; print(*[each.id for each in catalogue()])"
    command = [sys.executable, "-c", script]
    seen = {
        subprocess.run(
            command, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert seen == {" ".join(case.id for case in CASES) + "\n"}


def test_every_way_is_played() -> None:
    assert set(OPENS) == set(Open)
    assert set(TRAFFIC) == set(Traffic)
    assert set(CLOSES) == set(Close)


EXCLUDED = [
    (Open.REFUSED, Close.CLIENT_FIRST),
    (Open.PLAIN, Close.NOTHING),
    (Open.PLAIN, Traffic.IN_SYN),
    (Open.FAST_OPEN, Traffic.NOTHING),
    (Open.TIMED_OUT, Managed.ENROLLED),
    (Open.HALF_OPEN, Route.WAYPOINT),
    (Open.NOT_ACCEPTED, Traffic.BULK),
    (Close.NOTHING, Config.SWITCHED_ON),
    (Traffic.SEVERAL, Route.DIRECT),
]


@pytest.mark.parametrize(("one", "other"), EXCLUDED, ids=str)
def test_what_cannot_be_combined(one: Open, other: Close) -> None:
    assert not can_combine(one, other)
    assert not can_combine(other, one)


def test_what_opens_closes() -> None:
    for case in CASES:
        assert (case.open in UNCONNECTED) == (case.close is Close.NOTHING), case.id


def test_names_say_what_a_scenario_does() -> None:
    case = Case(
        Open.RETRIED,
        Close.CLIENT_FIRST,
        Family.V6,
        Managed.BOTH,
        Traffic.BULK,
        Config.DEFAULT,
        Route.WAYPOINT,
    )
    assert str(case) == (
        "refused, then retried on the same socket, client first, v6, both managed, 1 MiB each way,"
        " via waypoint"
    )
    assert case.id == "retried-client_first-both-bulk-waypoint-v6"
