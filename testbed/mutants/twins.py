"""Mutants of one code: one of them is run, in the place of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from testbed.mutants.model import Built, Result, Verdict


def one_of_each(
    built: Sequence[Built], reference: str, argued: Mapping[str, str], *, run_argued: bool
) -> tuple[list[Built], dict[str, Result]]:
    """Those to run, one of each code, and by id the verdicts that need no run.

    ``reference`` is the digest of the unchanged set, ``argued`` a reason by mutant for which it is
    equivalent: then so is every other one of the same code.
    """
    reasons = {
        each.digest: argued[each.mutant.id] for each in built if each.objects and each.mutant.id in argued
    }
    first: dict[str, Built] = {}
    decided: dict[str, Result] = {}
    for each in built:
        if not each.objects:
            result = Result(each.mutant, Verdict.INVALID, reason=each.reason)
        elif each.digest == reference:
            result = Result(each.mutant, Verdict.EQUIVALENT, reason="compiles to the same code")
        elif each.digest in reasons and not run_argued:
            result = Result(each.mutant, Verdict.EQUIVALENT, reason=reasons[each.digest])
        else:
            first.setdefault(each.digest, each)
            continue
        decided[each.mutant.id] = result
    return list(first.values()), decided


def with_twins(
    built: Sequence[Built], ran: Sequence[Built], results: Sequence[Result], decided: Mapping[str, Result]
) -> tuple[Result, ...]:
    """A verdict for each mutant, in their order: its own, or that of the one that was run in its place."""
    by_digest = {each.digest: result for each, result in zip(ran, results, strict=True)}
    found = []
    for each in built:
        result = decided.get(each.mutant.id) or by_digest[each.digest]
        if result.mutant.id != each.mutant.id:
            result = replace(result, mutant=each.mutant, seconds=0.0, ran=0, twin=result.mutant.id)
        found.append(result)
    return tuple(found)
