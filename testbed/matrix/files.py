"""A matrix as files: JSON, JUnit XML, HTML, and the summary of a GitHub Actions step."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from testbed.matrix.html import to_html
from testbed.matrix.junit import to_junit
from testbed.matrix.markdown import to_markdown
from testbed.matrix.model import MatrixResult
from testbed.matrix.rows import VERDICTS, ran_nowhere
from testbed.report.outputs import Unwritten, add_output, need_writable, write_output
from testbed.report.results import Result, short_name

SUMMARY = "GITHUB_STEP_SUMMARY"  # the file that GitHub Actions shows below a step


@dataclass(frozen=True)
class Outputs:
    """Where to write a matrix; None where not."""

    html: Path | None = None
    junit: Path | None = None
    json: Path | None = None
    summary: Path | None = None

    def need_writable(self) -> None:
        """`UsageError` for the first that cannot be written: before anything has run."""
        for field in fields(self):
            file = getattr(self, field.name)
            if file is not None:
                need_writable(file)

    def write(self, matrix: MatrixResult) -> None:
        """All that were asked for; only then the error of the first that could not be is raised.

        The summary is added to what other commands of the step have written.
        """
        makers: list[tuple[Path | None, Callable[[MatrixResult], str], Callable[[Path, str], None]]] = [
            (self.html, to_html, write_output),
            (self.junit, to_junit, write_output),
            (self.json, to_json, write_output),
            (self.summary, to_markdown, add_output),
        ]
        unwritten = Unwritten()
        for file, make, write in makers:
            if file is not None:
                with unwritten.kept_back():
                    write(file, make(matrix))
        unwritten.tell()


def step_summary() -> Path | None:
    """Where GitHub Actions wants a summary; None anywhere else."""
    name = os.environ.get(SUMMARY)
    return Path(name) if name else None


def to_json(matrix: MatrixResult) -> str:
    """Every scenario with its verdict on each kernel that it ran on, and how each guest ended."""
    verdicts: dict[str, dict[str, Result]] = {}
    for column in matrix.cells:
        for result in column.results:
            verdicts.setdefault(short_name(result.nodeid), {})[column.label] = result
    rows = [
        {
            "scenario": scenario,
            "title": next(iter(by_kernel.values())).about.title,
            "verdicts": {label: VERDICTS[result.outcome].value for label, result in by_kernel.items()},
            "reasons": {label: result.details for label, result in by_kernel.items() if result.details},
        }
        for scenario, by_kernel in sorted(
            verdicts.items(), key=lambda each: next(iter(each[1].values())).place
        )
    ]
    guests = {
        column.label: {
            "state": column.guest.state.value,
            "seconds": round(column.guest.seconds, 3),
            "release": column.guest.release,
            "accelerator": column.guest.accelerator,
            "why": column.guest.why or column.error,
            "console": column.guest.console,
        }
        for column in matrix.cells
    }
    document = {
        "kernels": [column.label for column in matrix.cells],
        "rows": rows,
        "guests": guests,
        "ran_nowhere": [short_name(result.nodeid) for result in ran_nowhere(matrix.cells)],
        "origin": matrix.origin,
        "seconds": round(matrix.seconds, 3),
    }
    return json.dumps(document, indent=1) + "\n"
