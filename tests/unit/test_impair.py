"""Impairments as they are written, and what becomes of them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from testbed.errors import UsageError
from testbed.kernel.netem import Netem
from testbed.topology.impair import ImpairSpec, impair_spec

MEANT = [
    ({}, Netem()),
    ({"delay": "10ms"}, Netem(delay_ns=10_000_000)),
    ({"delay": "1.5s", "jitter": "250us"}, Netem(delay_ns=1_500_000_000, jitter_ns=250_000)),
    ({"delay": "800ns", "jitter": "0.5µs"}, Netem(delay_ns=800, jitter_ns=500)),
    ({"loss": "1.5%", "duplicate": "100%"}, Netem(loss=1.5, duplicate=100)),
    ({"delay": "1ms", "reorder": "0.1%"}, Netem(delay_ns=1_000_000, reorder=0.1)),
    ({"rate": "10mbit"}, Netem(rate_bits=10_000_000)),
    ({"rate": "1.5gbit"}, Netem(rate_bits=1_500_000_000)),
    ({"rate": "0.3kbit"}, Netem(rate_bits=300)),
]


@pytest.mark.parametrize(("given", "meant"), MEANT)
def test_what_is_written_is_meant(given: dict[str, str], meant: Netem) -> None:
    spec = ImpairSpec.model_validate(given)
    assert spec.netem() == meant
    assert impair_spec(str(spec).split()) == spec
    assert meant.is_nothing is (given == {})


WRONG = [
    ({"delay": "10"}, "expected a time such as 10ms or 250us, got '10'; add the unit: ns, us, µs, ms, s"),
    ({"delay": 10}, "expected a time such as 10ms or 250us, got 10; add the unit"),
    ({"delay": "fast"}, "expected a time such as 10ms or 250us, got 'fast'"),
    ({"delay": "-1ms"}, "got '-1ms'"),
    ({"delay": "10mbit"}, "expected a time"),
    ({"loss": "1.5"}, "expected a part of the packets such as 1.5%, got '1.5'; add the unit: %"),
    ({"loss": "101%"}, "a loss of 101.0 % is not between 0 and 100"),
    ({"rate": "10mbps"}, "expected a rate such as 10mbit or 1.5gbit"),
    ({"rate": "40gbit"}, "a rate of 40000000000 bit/s is not between 0 and 34359738360"),
    ({"rate": "1bit"}, "a rate is at least 8 bit/s"),
    ({"jitter": "1ms"}, "the jitter is larger than the delay"),
    ({"reorder": "1%"}, "without a delay"),
    ({"delay": "300s"}, "a delay of 300000000000 ns is not between"),
    ({"latency": "1ms"}, "Extra inputs are not permitted"),
]


@pytest.mark.parametrize(("given", "why"), WRONG)
def test_what_makes_no_sense(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ImpairSpec.model_validate(given)
    (mistake,) = caught.value.errors()
    assert why in mistake["msg"]


WORDS = [
    ("delay 10ms", "'delay' is not NAME=VALUE"),
    ("delay=1ms delay=2ms", "delay is given twice"),
    ("dely=1ms", "there is no dely"),
    ("delay=10", "delay: expected a time"),
    ("reorder=1%", "without a delay"),
]


@pytest.mark.parametrize(("words", "why"), WORDS)
def test_words_of_a_command(words: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        impair_spec(words.split())
    assert caught.value.what == f"impair a link by {words!r}"


def test_the_schema_knows_the_units() -> None:
    delay = ImpairSpec.model_json_schema()["properties"]["delay"]
    assert delay["anyOf"][0]["pattern"] == r"^\d+(\.\d+)?(ns|us|µs|ms|s)$"
