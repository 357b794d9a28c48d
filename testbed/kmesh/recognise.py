"""Which era's interface a set of objects has, by what is in them: programs, maps, key and value sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from testbed.bpf.elf.info import MapInfo, ObjectInfo
from testbed.bpf.kinds import ProgramKind
from testbed.errors import UsageError
from testbed.kmesh.profile import MapSpec, Profile, builtin_profiles


@dataclass(frozen=True)
class Recognised:
    """The era found. ``by`` is what told it from ``others``, whose interface is the same so far; it is
    empty where nothing did and the newest was taken.
    """

    profile: Profile
    others: tuple[Profile, ...]
    by: str

    def __str__(self) -> str:
        text = f"{self.profile.era} ({self.profile.about})"
        if not self.others:
            return text
        eras = ", ".join(other.era for other in self.others)
        if self.by:
            return f"{text}, told from {eras} by {self.by}; --abi overrides"
        return f"{text}, the newest of those that fit; the same names and sizes has {eras} (--abi {eras})"


@dataclass(frozen=True)
class _Fact:
    """One thing that an era's objects have, and what is there in its place."""

    wanted: str
    found: str
    holds: bool


def recognise(objects: Sequence[ObjectInfo], profiles: Sequence[Profile] = ()) -> Recognised:
    """The era of a set of objects. `UsageError` lists what was looked for and found, of the nearest era."""
    candidates = list(profiles or builtin_profiles())
    facts = {profile.era: _facts(profile, objects) for profile in candidates}
    fitting = [profile for profile in candidates if all(fact.holds for fact in facts[profile.era])]
    if not fitting:
        raise _unrecognised(candidates, facts)
    told = [profile for profile in fitting if _tells(profile, objects)]
    profile = max(told or fitting, key=lambda each: each.order)
    others = tuple(other for other in fitting if other is not profile)
    return Recognised(profile, others, _tells(profile, objects) if told else "")


def missing_facts(profile: Profile, objects: Sequence[ObjectInfo]) -> list[str]:
    """What a set of objects does not have of an era, in words."""
    return [f"{fact.wanted}: {fact.found}" for fact in _facts(profile, objects) if not fact.holds]


def _names(objects: Sequence[ObjectInfo]) -> set[str]:
    programs = {program.name for each in objects for program in each.programs}
    return programs | {each.name for of in objects for each in of.maps}


def _tells(profile: Profile, objects: Sequence[ObjectInfo]) -> str:
    """In words what tells the era from those alike; empty where it does not hold."""
    names, tells = _names(objects), profile.tells
    if not (tells.present or tells.absent):
        return ""
    if names.issuperset(tells.present) and names.isdisjoint(tells.absent):
        missing = [f"no {name}" for name in tells.absent]
        return " and ".join([*tells.present, *missing])
    return ""


def _facts(profile: Profile, objects: Sequence[ObjectInfo]) -> list[_Fact]:
    maps: dict[str, MapInfo] = {}
    for each in (each for of in objects for each in of.maps):
        maps.setdefault(each.name, each)
    programs = [program for each in objects for program in each.programs]
    sockops = [program.name for program in programs if program.kind is ProgramKind.SOCKOPS]
    name = profile.programs["sockops"]
    facts = [_Fact(f"sockops program {name}", ", ".join(sockops) or "no sockops program", name in sockops)]
    for spec in profile.maps.values():
        found = maps.get(spec.name)
        holds = found is not None and _same(spec, found)
        facts.append(_Fact(_map_words(spec), _found_words(found), holds))
    return facts


def _same(spec: MapSpec, found: MapInfo) -> bool:
    return spec.key in {None, found.key_size} and spec.value in {None, found.value_size}


def _map_words(spec: MapSpec) -> str:
    sizes = [f"{what} {size} bytes" for what, size in (("key", spec.key), ("value", spec.value)) if size]
    return f"map {spec.name}" + (f" ({', '.join(sizes)})" if sizes else "")


def _found_words(found: MapInfo | None) -> str:
    return "not there" if found is None else f"key {found.key_size} bytes, value {found.value_size} bytes"


def _unrecognised(candidates: list[Profile], facts: dict[str, list[_Fact]]) -> UsageError:
    def score(profile: Profile) -> tuple[float, int]:
        holding = [fact.holds for fact in facts[profile.era]]
        return sum(holding) / len(holding), profile.order

    nearest = max(candidates, key=score)
    eras = ", ".join(profile.era for profile in candidates)
    lines = [f"nearest is {nearest.era} ({nearest.about}); looked for, and found:"]
    lines += [
        f"{'yes' if fact.holds else 'NO '} {fact.wanted}" + ("" if fact.holds else f": {fact.found}")
        for fact in facts[nearest.era]
    ]
    return UsageError(
        "recognise the ABI of the objects",
        "they fit no era",
        f"--abi ERA ({eras}), or --abi FILE with a profile of your own;"
        " programs of another kind are tested with the fixture sockops_program",
        "\n".join(lines),
    )
