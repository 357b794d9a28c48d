"""What a link does to packets, as a person writes it: ``delay: 10ms``, ``loss: 1.5%``, ``rate: 10mbit``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from testbed.errors import UsageError
from testbed.kernel.netem import Netem
from testbed.topology.fields import mistake, shown
from testbed.visible import dotted_place, one_line

_TIMES = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_RATES = {"bit": 1, "kbit": 1_000, "mbit": 1_000_000, "gbit": 1_000_000_000}
_CHANCES = {"%": 1}
_NUMBER = r"\d+(\.\d+)?"


def _quantity(units: Mapping[str, int], what: str) -> Any:
    pattern = f"^{_NUMBER}({'|'.join(units)})$"

    def check(value: object) -> object:
        if isinstance(value, str) and re.fullmatch(pattern, value.strip()):
            return value.strip()
        bare = isinstance(value, int | float) or (isinstance(value, str) and re.fullmatch(_NUMBER, value))
        hint = f"; add the unit: {', '.join(units)}" if bare else ""
        raise mistake(f"expected {what}, got {shown(value)}{hint}")

    return BeforeValidator(check), WithJsonSchema({"type": "string", "pattern": pattern})


Time = Annotated[str, *_quantity(_TIMES, "a time such as 10ms or 250us")]
Chance = Annotated[str, *_quantity(_CHANCES, "a part of the packets such as 1.5%")]
Rate = Annotated[str, *_quantity(_RATES, "a rate such as 10mbit or 1.5gbit")]


class ImpairSpec(BaseModel):
    """What netem does to the packets of a link, in both directions alike."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    delay: Time | None = Field(default=None, description="How much later each packet arrives: 10ms.")
    jitter: Time | None = Field(default=None, description="How far the delay may be off, either way: 2ms.")
    loss: Chance | None = Field(default=None, description="How many packets are lost: 1.5%.")
    reorder: Chance | None = Field(
        default=None, description="How many packets do not wait for the delay, and so overtake others: 5%."
    )
    duplicate: Chance | None = Field(default=None, description="How many packets arrive twice: 1%.")
    rate: Rate | None = Field(default=None, description="How many bits go by in a second: 10mbit.")

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        try:
            self.netem()
        except UsageError as error:
            raise mistake(error.why) from error
        return self

    def netem(self) -> Netem:
        """It as the kernel is told."""
        return Netem(
            delay_ns=_whole(self.delay, _TIMES),
            jitter_ns=_whole(self.jitter, _TIMES),
            loss=float(_value(self.loss, _CHANCES)),
            reorder=float(_value(self.reorder, _CHANCES)),
            duplicate=float(_value(self.duplicate, _CHANCES)),
            rate_bits=_whole(self.rate, _RATES),
        )

    def __str__(self) -> str:
        """``delay=10ms loss=1.5%``, as `impair_spec` takes it."""
        return " ".join(f"{name}={value}" for name, value in self if value is not None)


def _value(text: str | None, units: Mapping[str, int]) -> Decimal:
    if text is None:
        return Decimal(0)
    number = re.match(_NUMBER, text)
    assert number is not None, text  # it was validated
    return Decimal(number[0]) * units[text[number.end() :]]


def _whole(text: str | None, units: Mapping[str, int]) -> int:
    return int(_value(text, units))


def impair_spec(words: Sequence[str]) -> ImpairSpec:
    """It from words of a command, ``delay=10ms``. `UsageError` says which word is wrong, and how."""
    what = f"impair a link by {' '.join(words)!r}"
    known = ", ".join(ImpairSpec.model_fields)
    given: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UsageError(what, f"{word!r} is not NAME=VALUE", f"such as delay=10ms; names: {known}")
        if name in given:
            raise UsageError(what, f"{name} is given twice")
        given[name] = value
    try:
        return ImpairSpec.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = dotted_place(first["loc"])
        said = f"there is no {name}" if first["type"] == "extra_forbidden" else first["msg"]
        why = f"{name}: {said}" if name and first["type"] != "extra_forbidden" else said
        raise UsageError(what, one_line(why), f"names: {known}") from error
