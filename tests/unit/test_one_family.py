"""The quick choice: nothing of the contract is left out whole, and the families share it evenly."""

from __future__ import annotations

from collections import Counter

from testbed.kmesh.catalogue.case import DIMENSIONS
from testbed.matrix.collection import Scenario, collect
from testbed.pytest_plugin import parse_families
from testbed.report.one_family import not_done
from testbed.report.session import Selection


def every() -> tuple[Scenario, ...]:
    return collect(Selection())


def quick() -> tuple[Scenario, ...]:
    return collect(Selection(quick=True))


def name(scenario: Scenario) -> tuple[str, ...]:
    """A scenario without its family."""
    about, test = scenario.about, scenario.nodeid.partition("[")[0]
    return (test, about.row or about.title, about.variant)


def test_every_scenario_is_there_and_once() -> None:
    assert {name(each) for each in quick()} == {name(each) for each in every()}
    counts = Counter(name(each) for each in quick() if not each.about.row)
    assert set(counts.values()) == {1}


def test_every_value_of_the_catalogue_is_met() -> None:
    met = {word for each in quick() if each.about.row for word in each.about.title.split(", ")}
    met |= {each.about.row for each in quick()}
    usual = {"no connection", "no data", "default settings", "direct"}
    assert {value.value for values in DIMENSIONS for value in values if "," not in value.value} <= met | usual


def test_the_families_share_them() -> None:
    counts = Counter(each.about.family for each in quick())
    assert len(quick()) < 0.27 * len(every())
    assert set(counts) == {"v4", "v6", "mapped", "mapped-client"}
    assert min(counts.values()) > 0.8 * len(quick()) / 4, counts


def test_each_group_meets_every_family() -> None:
    def pairs(scenarios: tuple[Scenario, ...]) -> set[tuple[str, str]]:
        return {(each.about.heading, each.about.family) for each in scenarios}

    assert pairs(every()) - pairs(quick()) == set()


def test_an_expression_chooses_among_them() -> None:
    some = {each.nodeid for each in collect(Selection(quick=True, expression="close and not reset"))}
    chosen = {each.nodeid for each in collect(Selection(expression="close and not reset"))}
    assert some == chosen & {each.nodeid for each in quick()}


def test_of_fewer_families_all_are_used() -> None:
    counts = Counter(each.about.family for each in collect(Selection(families="v6,mapped", quick=True)))
    assert min(counts["v6"], counts["mapped"]) > 0.4 * counts.total()


def test_a_family_that_is_named_twice_is_used_once() -> None:
    assert parse_families("v6,v4, v6") == ("v6", "v4")


def test_the_last_line_says_what_was_left_out() -> None:
    assert not_done(("v4", "v6", "mapped", "mapped-client")).endswith("; without --quick: all, in all four")
    assert not_done(("v4",)).endswith("; without --quick: all")
