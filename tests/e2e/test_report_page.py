"""The report of a run in a browser that has no network: what its script does, print, and large runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.observe.events import Kind, Story
from testbed.report.page.html import report_html
from testbed.report.page.model import Page
from testbed.runs.model import Verdict
from tests.any_story import HOSTILE
from tests.chromium import CHROMIUM, Browser, browser
from tests.stories import failed, large, lost_fin, many, passed

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to open the page with"),
    pytest.mark.long,
]
CHOOSE = "(each => {each.value = '2'; each.dispatchEvent(new Event('change'))})"
VISIBLE = "filter(each => each.checkVisibility()).length"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as one:
        one.size(1400, 1000)
        yield one


def made(folder: Path, *stories: Story) -> Path:
    file = folder / "report.html"
    verdicts = tuple(
        Verdict(f"other::{outcome}", f"a scenario that {outcome}", outcome, "v6", details="why")
        for outcome in ("passed", "skipped", "error")
    )
    told = tuple(Verdict(story.test, story.title, story.verdict, "v4") for story in stories)
    page = Page("a run", (*told, *verdicts), stories, facts=(("kernel", "6.18"),))
    file.write_text(report_html(page), encoding="utf-8")
    return file


@pytest.fixture
def page(chromium: Browser, tmp_path: Path) -> Iterator[Browser]:
    """A page of three stories, the second of which failed. Whatever is done, it complains of nothing."""
    file = made(tmp_path, passed(), failed(), lost_fin())
    chromium.open(file)
    yield chromium
    assert chromium.complaints == []
    assert {re.sub("#.*", "", url) for url in chromium.requests} <= {file.as_uri(), "about:blank"}


def count(page: Browser, selector: str) -> int:
    found: int = page.evaluate(f"[...document.querySelectorAll({selector!r})].{VISIBLE}")
    return found


def test_what_failed_is_open_and_drawn_whole(page: Browser) -> None:
    connection = failed().concerned()[0]
    segments = sum(each.kind is Kind.SEGMENT for each in connection.events)
    assert page.evaluate("[...document.querySelectorAll('.story')].map(each => each.open)") == [
        True,
        False,
        False,
    ]
    assert count(page, "#story-2 .ev") == len(connection.events)
    assert count(page, "#story-2 .ev .tip") == segments
    assert count(page, "#story-2 .flagged") == 2
    assert page.evaluate("getComputedStyle(document.querySelector('.bar')).fill") != "rgb(0, 0, 0)"


def test_events_are_filtered_by_kind_and_connection(page: Browser) -> None:
    page.evaluate("document.querySelector('#story-2 .f-segment').click()")
    assert count(page, "#story-2 .ev.k-segment") == 0
    assert count(page, "#story-2 .ev.k-callback") > 0
    page.evaluate(f"{CHOOSE}(document.querySelector('#story-2 .connection'))")
    numbers = "[...document.querySelectorAll('#story-2 .ev')].filter(e => !e.hidden).map(e => e.dataset.c)"
    assert set(page.evaluate(numbers)) == {"2"}


def test_verdicts_are_filtered(page: Browser) -> None:
    rows = ".verdicts tbody tr"
    assert count(page, rows) == 6
    page.evaluate("document.getElementById('filter').focus()")
    for letter in "fin":
        page.press(letter)
    assert count(page, rows) == 1
    assert page.evaluate("document.getElementById('matching').textContent") == "1 of 6 rows"
    page.evaluate("document.querySelector('input[value=passed]').click()")
    assert count(page, rows) == 0


def test_the_keyboard_is_enough(page: Browser) -> None:
    page.evaluate("document.querySelector('#story-2 .scroll').focus()")
    focused = "document.activeElement.closest('.ev')?.id"
    page.press("Home")
    first = page.evaluate(focused)
    page.press("ArrowDown")
    assert page.evaluate(focused) != first
    page.press("ArrowUp")
    assert page.evaluate(focused) == first
    page.press("Enter")
    assert page.evaluate(f"document.getElementById({first!r}).querySelector('.d').checkVisibility()")
    before = page.evaluate("+document.querySelector('#story-2 .zoomed').style.zoom || 1")
    page.press("+")
    assert page.evaluate("+document.querySelector('#story-2 .zoomed').style.zoom") > before


def test_links_lead_to_events(page: Browser) -> None:
    page.evaluate(f"{CHOOSE}(document.querySelector('#story-2 .connection'))")
    page.evaluate("document.querySelector('#story-2 .f-record').click()")
    page.evaluate("document.querySelectorAll('#story-2 .differences a')[1].click()")
    page.evaluate("0")
    target = "document.querySelector('.ev:target')"
    assert page.evaluate(f"{target}.classList.contains('flagged')")
    assert page.evaluate(f"{target}.checkVisibility()"), "whatever was filtered out"
    assert page.evaluate(f"{target}.getBoundingClientRect().top < innerHeight")
    page.evaluate("location.hash = '#story-3'")
    page.evaluate("0")
    assert page.evaluate("document.getElementById('story-3').open")


def test_an_event_tells_all_when_pointed_at(page: Browser) -> None:
    row = "document.querySelector('#story-2 .k-segment svg').getBoundingClientRect()"
    page.evaluate("document.querySelector('#story-2 .scroll').scrollIntoView()")
    where = page.evaluate(f"(({{left, top}}) => ({{x: left + 20, y: top + 8}}))({row})")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", **where)
    assert "window" in page.evaluate("document.querySelector('.tip-box').textContent")


def test_paper_has_everything(page: Browser) -> None:
    pdf = page.pdf()
    assert pdf.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    assert pages >= 5, "every story is open"
    assert page.evaluate("document.getElementById('story-1').open") is False
    page.media("print")
    assert page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflow") == "visible"
    page.media()


def test_without_its_script_it_is_a_picture_all_the_same(chromium: Browser, tmp_path: Path) -> None:
    file = made(tmp_path, failed())
    text = re.sub("<script>.*</script>", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    file.write_text(text, encoding="utf-8")
    chromium.open(file)
    everything = sum(1 for _ in failed().events())
    assert count(chromium, "#story-1 .ev") == everything
    assert count(chromium, ".scripted") == 0
    chromium.evaluate("document.querySelector('#story-1 .f-call').click()")
    assert count(chromium, "#story-1 .ev.k-call") == 0


def test_hostile_words_do_nothing(chromium: Browser, tmp_path: Path) -> None:
    evil = tuple(failed(text) for text in HOSTILE)
    file = made(tmp_path, *evil)
    chromium.open(file)
    assert chromium.evaluate("document.title").startswith("a run")
    assert chromium.evaluate("document.querySelectorAll('script, img').length") == 1
    assert chromium.evaluate("document.querySelectorAll('.story').length") == len(HOSTILE)
    assert chromium.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_in_both_schemes(page: Browser, scheme: str) -> None:
    """WCAG 2.1, 1.4.3: a contrast of 4.5 at least, of each kind's words on what is below them."""
    page.media(scheme=scheme)
    contrasts = page.evaluate(CONTRASTS)
    page.media()
    assert len(contrasts) >= 6
    assert {kind: value for kind, value in contrasts.items() if value < 4.5} == {}


CONTRASTS = """(() => {
  const light = (text) => {
    const parts = text.match(/[0-9.]+/g).map(Number).slice(0, 3).map((each) => {
      const part = each / 255;
      return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const ratio = (one, other) => {
    const [dark, bright] = [light(one), light(other)].sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  };
  const paper = getComputedStyle(document.body).backgroundColor;
  const found = {};
  for (const text of document.querySelectorAll("#story-2 .ev .l, #story-2 .ev .t")) {
    const row = text.closest(".ev");
    const box = text.classList.contains("l") && row.querySelector(".s");
    const below = box ? getComputedStyle(box).fill : paper;
    const name = `${row.className} ${text.classList}`;
    found[name] = Math.min(found[name] ?? 99, ratio(getComputedStyle(text).fill, below));
  }
  return found;
})()"""


def test_a_large_run_stays_usable(chromium: Browser, tmp_path: Path) -> None:
    file = made(tmp_path, *many(200), large(2000))
    assert file.stat().st_size < 16 << 20
    chromium.open(file)
    milliseconds = chromium.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    assert milliseconds < 10_000
    chromium.open(file, "story-201")
    assert count(chromium, "#story-201 .ev") == 2000
    assert chromium.complaints == []
