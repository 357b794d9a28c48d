"""A matrix as JUnit XML: a suite for each kernel."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import PurePosixPath

from testbed.guest.state import GuestState
from testbed.matrix.model import CellResult, MatrixResult
from testbed.matrix.rows import tally
from testbed.report.results import Result, short_name
from testbed.report.shown import printable

_ELEMENTS = {"failed": "failure", "error": "error", "skipped": "skipped"}


def to_junit(matrix: MatrixResult) -> str:
    """The document. A guest that did not get there is an error, in a test case of its own."""
    root = ET.Element("testsuites", name="testbed matrix", time=f"{matrix.seconds:.3f}")
    for column in matrix.cells:
        root.append(_suite(column))
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    ET.indent(root, " ")
    return ET.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def _suite(column: CellResult) -> ET.Element:
    counts = tally(column.results)
    ended = _guest_error(column)
    lost = 0 if ended is None else 1
    suite = ET.Element(
        "testsuite",
        name=printable(column.label),
        tests=str(len(column.results) + lost),
        failures=str(counts.failed),
        errors=str(counts.errors + lost),
        skipped=str(counts.skipped),
        time=f"{column.guest.seconds:.3f}",
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(column):
        ET.SubElement(properties, "property", name=name, value=printable(value))
    for result in column.results:
        suite.append(_case(column.label, result))
    if ended is not None:
        suite.append(ended)
    return suite


def _properties(column: CellResult) -> Sequence[tuple[str, str]]:
    guest = column.guest
    return (
        ("kernel", column.label),
        ("release", guest.release),
        ("state", guest.state.value),
        ("accelerator", guest.accelerator),
    )


def _case(label: str, result: Result) -> ET.Element:
    stem = PurePosixPath(result.nodeid.partition("::")[0]).stem
    case = ET.Element(
        "testcase",
        classname=printable(f"{label}.{stem}"),
        name=printable(short_name(result.nodeid).partition("::")[2]),
        time=f"{result.seconds:.3f}",
    )
    element = _ELEMENTS.get(result.outcome)
    if element == "skipped":
        ET.SubElement(case, element, message=printable(result.details))
    elif element is not None:
        message = ", ".join(result.violated) or result.about.title
        child = ET.SubElement(case, element, message=printable(message), type=result.outcome)
        child.text = printable(result.details)
    return case


def _guest_error(column: CellResult) -> ET.Element | None:
    guest = column.guest
    if guest.state is GuestState.BOOTED and not column.error:
        return None
    case = ET.Element(
        "testcase",
        classname=printable(f"{column.label}.guest"),
        name="the guest runs the scenarios",
        time=f"{guest.seconds:.3f}",
    )
    kind = guest.state.value if guest.state is not GuestState.BOOTED else "not run"
    message = printable(guest.why or column.error or kind)
    error = ET.SubElement(case, "error", message=message, type=kind)
    error.text = printable("\n".join(text for text in (column.error, guest.console) if text))
    return case
