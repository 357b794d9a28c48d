"""What all the verdicts come to: figures, JSON, and whether it is enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from testbed.mutants.model import Result, Verdict


@dataclass(frozen=True)
class Score:
    """``scenarios`` are their names by number, ``checks`` what each is of; several are of one check.

    ``left_out`` are the names of scenarios that fail on the unchanged set.

    ``argued`` are the reasons, by id, why a mutant is said to be equivalent.
    """

    results: tuple[Result, ...]
    checks: tuple[str, ...]
    scenarios: tuple[str, ...]
    left_out: tuple[str, ...]
    runs: int
    seconds: float
    argued: Mapping[str, str] = field(default_factory=dict)

    def count(self, verdict: Verdict, file: str = "") -> int:
        return sum(result.verdict is verdict and file in {"", result.mutant.file} for result in self.results)

    def percent(self, file: str = "") -> float | None:
        """Killed, of those that were killed or survived; None where there is neither."""
        killed = self.count(Verdict.KILLED, file)
        both = killed + self.count(Verdict.SURVIVED, file)
        return 100 * killed / both if both else None

    @property
    def files(self) -> list[str]:
        return list(dict.fromkeys(result.mutant.file for result in self.results))

    def of(self, verdict: Verdict) -> list[Result]:
        return [result for result in self.results if result.verdict is verdict]

    @property
    def missed(self) -> list[Result]:
        """Those picked by hand that are not killed: each must be."""
        return [
            result for result in self.results if result.mutant.name and result.verdict is not Verdict.KILLED
        ]

    @property
    def refuted(self) -> list[Result]:
        """Those argued to be equivalent that were killed nevertheless: the argument is wrong."""
        return [result for result in self.of(Verdict.KILLED) if result.mutant.id in self.argued]

    def enough(self, target: float) -> bool:
        """Whether the suite is as good as it should be, and every run told something."""
        percent = self.percent()
        good = percent is None or percent >= target
        return good and not self.missed and not self.refuted and not self.of(Verdict.ERROR)

    def kills(self) -> dict[str, Counter[str]]:
        """Of each check that failed on a mutant: how many of which file. Twins count once."""
        found: dict[str, Counter[str]] = {}
        for result in self.results:
            if result.verdict is Verdict.KILLED and not result.twin:
                for check in {self.checks[failure.item] for failure in result.by}:
                    found.setdefault(check, Counter())[result.mutant.file] += 1
        return found

    def idle(self) -> list[str]:
        """Checks that killed nothing, in their order; of those that were run."""
        pairs = zip(self.checks, self.scenarios, strict=True)
        ran = dict.fromkeys(check for check, scenario in pairs if scenario not in self.left_out)
        kills = self.kills()
        return [check for check in ran if check not in kills]

    def as_dict(self) -> dict[str, object]:
        """For JSON: the four counts, ``errors``, ``score`` in percent, and every mutant."""
        return {
            **{
                verdict.value: self.count(verdict)
                for verdict in (Verdict.KILLED, Verdict.SURVIVED, Verdict.INVALID, Verdict.EQUIVALENT)
            },
            "errors": self.count(Verdict.ERROR),
            "score": self.percent(),
            "runs": self.runs,
            "seconds": round(self.seconds, 1),
            "left_out": list(self.left_out),
            "mutants": [self._entry(result) for result in self.results],
            "matrix": {check: dict(files) for check, files in self.kills().items()},
            "idle": self.idle(),
        }

    def _entry(self, result: Result) -> dict[str, object]:
        mutant = result.mutant
        return {
            "id": mutant.id,
            "name": mutant.name,
            "file": mutant.file,
            "line": mutant.line,
            "old": mutant.old,
            "new": mutant.new,
            "verdict": result.verdict.value,
            "by": [
                {"check": self.checks[each.item], "scenario": self.scenarios[each.item], "why": each.why}
                for each in result.by
            ],
            "reason": result.reason,
            "ran": result.ran,
            "seconds": round(result.seconds, 3),
            "twin": result.twin,
        }
