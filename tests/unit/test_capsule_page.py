"""The page of a run or a capsule: what leads to a connection, what is closed at first, what is filtered."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.observe.events import Difference, Story
from testbed.report.page.compared import compare
from testbed.report.page.html import report_html
from testbed.report.page.rows import numbered
from testbed.runs.model import Verdict
from tests.chromium import CHROMIUM, Browser, browser
from tests.stories import failed, large, lost_fin, passed
from tests.unit.test_report_page import Parsed, need_harmless, page_of


def gone(words: str) -> Story:
    """A story whose only difference names no connection, and expects nothing."""
    return replace(lost_fin(), verdict="failed", differences=(Difference("close: not seen", "", words),))


def test_a_difference_that_expects_nothing_leads_to_its_connection() -> None:
    one = gone("").connections[-1]
    ends = f"client ACTIVE_ESTABLISHED {str(one.tuple).replace('→', '–')}"
    cookie = next(each.cookie for each in one.events if each.cookie is not None)
    for words in (f"gone: {ends}", f"gone: cookie={cookie}", f"gone: map[{one.tuple.reversed}]"):
        (found,) = compare(gone(words), numbered(gone(words)))
        assert (found.connection, found.expected) == (one.number, (("–", False),)), words
        assert found.place is not None
    for words in ("gone", f"gone: {ends.replace('10.77.0.1:', '210.77.0.1:')}", "gone: cookie=1"):
        (found,) = compare(gone(words), numbered(gone(words)))
        assert (found.connection, found.place) == (0, None), words
    text = report_html(page_of(gone(f"gone: {ends}")))
    assert re.search(r'<td class="expected">–</td>', text)
    assert "until this event</a>" in text


@pytest.mark.long
def test_what_is_not_drawn_is_led_to_by_its_connection() -> None:
    story = large(4100)
    event, number = numbered(story)[3000]
    at = Difference("x", "", "y", connection=event.connection, time_ns=event.time_ns)
    parsed = need_harmless(report_html(page_of(replace(story, verdict="failed", differences=(at,)))))
    assert [words for words in parsed.words["a"] if words.startswith("connection")] == [
        f"connection #{number}"
    ]


@pytest.mark.parametrize(("lines", "is_open"), [(3, True), (30, False)])
def test_a_long_message_does_not_stand_before_the_diagram(lines: int, is_open: bool) -> None:
    message = "\n".join(["assert 1 == 2", *["more"] * (lines - 1)])
    parsed = Parsed(report_html(page_of(replace(lost_fin(), message=message, differences=()))))
    plain = [each for tag, each in parsed.elements if tag == "details" and each.get("class") == "plain"]
    assert ("open" in plain[0]) is is_open
    assert ": assert 1 == 2" in parsed.words["span"]


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to open the page with")
def test_the_filter_is_of_the_stories_too(tmp_path: Path) -> None:
    told = (passed(), failed(), lost_fin())
    verdicts = [
        Verdict(each.test, each.title, each.verdict, family, "Closing")
        for each, family in zip(told, ("v4", "v6", "v4"), strict=True)
    ]
    without = Verdict("x", "another", "error", "v6", details="why")
    file = tmp_path / "report.html"
    file.write_text(report_html(page_of(*told, verdicts=(*verdicts, without))), encoding="utf-8")

    def visible(page: Browser, words: str, *clicked: str) -> tuple[int, list[str]]:
        page.evaluate(f"document.getElementById('filter').value = {words!r}")
        for outcome in clicked:
            page.evaluate(f"document.querySelector('input[value={outcome}]').click()")
        page.evaluate("document.querySelector('.filter').dispatchEvent(new Event('input'))")
        seen = "].filter(each => each.checkVisibility())"
        rows = page.evaluate(f"[...document.querySelectorAll('.verdicts tbody tr'){seen}.length")
        return rows, page.evaluate(
            f"[...document.querySelectorAll('.story, .told'){seen}.map(each => each.id)"
        )

    with browser() as page:
        page.open(file)
        assert visible(page, "")[1] == ["story-2", "story-1", "story-3", "failure-1"]
        assert visible(page, "closing v6") == (1, ["story-2"])
        assert page.evaluate("document.getElementById('matching-stories').textContent").startswith(
            "1 of 3 stor"
        )
        assert visible(page, "", "passed", "error") == (1, ["story-2"])
        page.evaluate("location.hash = '#story-1'")
        page.evaluate("0")
        assert page.evaluate("document.getElementById('story-1').checkVisibility()"), "a link leads there"
        assert page.complaints == []
