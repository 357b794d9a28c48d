"""A matrix as files: JSON, JUnit, HTML, and the summary of a CI step."""

from __future__ import annotations

import html.parser
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from testbed.errors import UsageError
from testbed.matrix.files import Outputs, step_summary, to_json
from testbed.matrix.html import to_html
from testbed.matrix.junit import to_junit
from testbed.matrix.markdown import to_markdown
from testbed.matrix.model import CellResult, MatrixResult
from tests.matrix_results import BOOTED, LACKS, PANIC, column, result

EVIL = "<script>alert(1)</script> \x00\x1b[31m ]]> \ud800 \x85 \ufffe & | `x`"
MATRIX = MatrixResult(
    (
        column("5.10", "pspe"),
        CellResult("6.12", BOOTED, (result("a", "failed", details=EVIL, violated=("a verdict is left",)),)),
        column("7.2", "p...", PANIC),
        column("7.3", "....", error="cannot load sockops_prog: EACCES"),
    ),
    "sockops.o",
    42.0,
    ("KVM works",),
)


def test_json() -> None:
    told = json.loads(to_json(MATRIX))
    assert told["kernels"] == ["5.10", "6.12", "7.2", "7.3"]
    assert told["rows"][0] == {
        "scenario": "4_close::a[v4]",
        "title": "a",
        "verdicts": {"5.10": "pass", "6.12": "fail", "7.2": "pass"},
        "reasons": {"6.12": EVIL},
    }
    assert {row["verdicts"]["5.10"] for row in told["rows"]} == {"pass", "skip", "error"}
    assert told["guests"]["7.2"]["state"] == "panic"
    assert told["guests"]["5.10"]["seconds"] == 30.25
    assert told["ran_nowhere"] == ["4_close::b[v4]"]


def test_junit_counts_and_order() -> None:
    root = ET.fromstring(to_junit(MATRIX))  # noqa: S314 (we wrote it)
    attributes = ("name", "tests", "failures", "errors", "skipped")
    assert [tuple(suite.get(name) for name in attributes) for suite in root] == [
        ("5.10", "4", "0", "1", "1"),
        ("6.12", "1", "1", "0", "0"),
        ("7.2", "2", "0", "1", "0"),
        ("7.3", "1", "0", "1", "0"),
    ]
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("8", "1", "3")
    for suite in root:
        assert [child.tag for child in suite] == ["properties", *["testcase"] * (len(suite) - 1)]
        assert len(suite) - 1 == int(suite.get("tests", "0"))
        assert {child.tag for case in suite.iter("testcase") for child in case} <= {
            "failure",
            "error",
            "skipped",
        }


def test_junit_says_why() -> None:
    root = ET.fromstring(to_junit(MATRIX))  # noqa: S314 (we wrote it)
    skipped = root.find(".//skipped")
    failure = root.find(".//failure")
    panic = root.find(".//testcase[@classname='7.2.guest']/error")
    assert skipped is not None
    assert failure is not None
    assert panic is not None
    assert skipped.get("message") == LACKS
    assert failure.get("message") == "a verdict is left"
    assert failure.text == "<script>alert(1)</script> \\x00\\x1b[31m ]]> \\ud800 \x85 \\ufffe & | `x`"
    assert panic.get("type") == "panic"
    assert panic.get("message") == PANIC.why
    assert "NULL pointer" in (panic.text or "")


class _Page(html.parser.HTMLParser):
    """Collects what links where, and what would be loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        if tag not in {"meta", "link", "br", "img"}:
            self.open.append(tag)
        for name in ("href", "src"):
            if value := values.get(name):
                self.links.add(value)
        if value := values.get("id"):
            assert value not in self.ids
            self.ids.add(value)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_stands_alone_and_its_links_lead_somewhere() -> None:
    text = to_html(MATRIX)
    page = _Page()
    page.feed(text)
    assert not page.open
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "url(" not in text
    assert page.links
    assert {link.removeprefix("#") for link in page.links} <= page.ids
    assert {"failure-1", "failure-2", "guest-3", "guest-4"} <= page.ids


def test_html_escapes_and_says_it_all() -> None:
    text = to_html(MATRIX)
    assert "&lt;script&gt;alert(1)" in text
    assert "\x00" not in text
    for words in (PANIC.why, "BUG: kernel NULL pointer", LACKS, "KVM works", "sockops.o", "cannot load"):
        assert words in text, words


def test_markdown_is_a_table_of_kernels_and_rows() -> None:
    text = to_markdown(MATRIX)
    assert text.startswith("### ❌ 4 kernels: 3 passed, 1 failed, 1 error, 1 skipped; 1 panic in 42.0 s")
    assert "| 7.2 | **panic** | 1 | 0 | 0 | 12.0 |" in text
    assert "| a | pass | **FAIL** ◂ | pass | not run |" in text
    assert "\n<pre>\n&lt;script&gt;alert(1)" in text


def test_all_files_are_written(tmp_path: Path) -> None:
    outputs = Outputs(*(tmp_path / name for name in ("m.html", "m.xml", "m.json", "summary.md")))
    (tmp_path / "summary.md").write_text("before\n", encoding="utf-8")
    outputs.need_writable()
    outputs.write(MATRIX)
    ET.parse(tmp_path / "m.xml")  # noqa: S314 (we wrote it)
    assert json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))["seconds"] == 42.0
    assert (tmp_path / "m.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert (tmp_path / "summary.md").read_text(encoding="utf-8").startswith("before\n### ")


def test_a_file_that_cannot_be_written_is_told_before_anything_runs() -> None:
    with pytest.raises(UsageError, match="No such file"):
        Outputs(junit=Path("/no/such/dir/x.xml")).need_writable()


def test_step_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    assert step_summary() is None
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/tmp/summary")  # noqa: S108 (never written)
    assert step_summary() == Path("/tmp/summary")  # noqa: S108
