"""A run as one HTML page that needs nothing else, and fetches nothing: its own policy forbids it.

However large a run is, the page stays below 16 MiB: of a story with more than 4,000 events the first and
the last are drawn, texts are cut, and stories for which there is no more room are named, not drawn.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from testbed.graph.svg import STYLE
from testbed.observe.events import Story
from testbed.report.page.model import Page
from testbed.report.page.pictures import Pictures
from testbed.report.page.stories import ShownStory, show
from testbed.report.page.verdicts import OUTCOMES, bad, rows_of
from testbed.report.pages import templates
from testbed.report.shown import on_a_line, told
from testbed.runs.model import Verdict

_PACKAGE = "testbed.report.page"
LARGEST = 16 << 20  # bytes
_NAMED = 1000  # of them, for a story that is not drawn
_OPEN = 5  # of the stories that failed: the first are open from the beginning
_DETAILS = 20_000
_REASONS = 1 << 20  # characters of failures that have no story
_SHORT = 500
_SKIPS = 200


@dataclass(frozen=True)
class _Failure:
    anchor: str
    test: str
    title: str
    details: str
    outcome: str
    words: str


@dataclass(frozen=True)
class _Drawn:
    """A story, and what it is on the page: its ``text`` is empty when there was no room for it."""

    story: ShownStory
    text: Markup
    size: int


def report_html(page: Page, largest: int = LARGEST) -> str:
    """The whole file, of ``largest`` bytes at most where what is in it besides stories is smaller.

    Without verdicts, those of the stories are in its table.
    """
    if not page.verdicts:
        page = replace(page, verdicts=tuple(map(_verdict, page.stories)))
    pictures = Pictures()
    drawn = _draw(page, pictures, largest)
    fitting = sum(1 for each in drawn if each.text)
    while True:
        text = _render(page, pictures, drawn[:fitting], drawn[fitting:], largest)
        over = len(text.encode()) - largest
        if over <= 0 or not fitting:
            return text
        while over > 0 and fitting:
            fitting -= 1
            over += _NAMED - drawn[fitting].size


def _verdict(story: Story) -> Verdict:
    return Verdict(story.test, story.title or story.test, story.verdict, details=story.message)


def _draw(page: Page, pictures: Pictures, largest: int) -> list[_Drawn]:
    """The stories, what failed first. When they have filled the page, the others are not drawn any more."""
    template = templates(_PACKAGE).get_template("story.html.j2")
    named = {each.test: each for each in page.verdicts}
    drawn: list[_Drawn] = []
    ordered = sorted(enumerate(page.stories, 1), key=lambda pair: not bad(pair[1].verdict))
    for place, (number, story) in enumerate(ordered):
        is_open = bad(story.verdict) and place < _OPEN
        verdict = named.get(story.test)
        whole = story if story.message or not verdict else replace(story, message=verdict.details)
        words = verdict.words() if verdict else ""
        shown = show(whole, number, page.name, pictures, is_open=is_open, words=words)
        text = Markup(template.render(story=shown) if largest > 0 else "")  # noqa: S704 (a template's)
        size = len(text.encode())
        largest -= size
        drawn.append(_Drawn(shown, text, size))
    return drawn


def _render(
    page: Page, pictures: Pictures, drawn: Sequence[_Drawn], others: Sequence[_Drawn], largest: int
) -> str:
    anchors = {story.test: f"story-{number}" for number, story in enumerate(page.stories, 1)}
    failures = _failures(page.verdicts, anchors)
    anchors |= {failure.test: failure.anchor for failure in failures}
    rows, families = rows_of(page.verdicts, anchors)
    counts = {outcome: sum(each.outcome == outcome for each in page.verdicts) for outcome, _ in OUTCOMES}
    skips = Counter(each.details for each in page.verdicts if each.outcome == "skipped").most_common(_SKIPS)
    picture = pictures.of_topology(page.topology) if page.topology is not None else None
    style, script = Markup(_style()), Markup(_file("page.js"))  # noqa: S704 (ours)
    return (
        templates(_PACKAGE)
        .get_template("page.html.j2")
        .render(
            page=page,
            summary=_summary(counts),
            counts=counts,
            outcomes=OUTCOMES,
            families=families,
            rows=rows,
            stories=[each.text for each in drawn],
            not_drawn=[each.story for each in others],
            limit=largest >> 20,
            failures=failures,
            skips=[(told(reason, _SHORT), count) for reason, count in skips],
            picture=picture,
            pictures=pictures.all,
            contents=_contents(page, failures=bool(failures), skips=bool(skips)),
            style=style,
            script=script,
            style_hash=_hash(style),
            script_hash=_hash(script),
        )
    )


def _failures(verdicts: Iterable[Verdict], anchors: Mapping[str, str]) -> list[_Failure]:
    """What failed and has no story that would say why."""
    found: list[_Failure] = []
    room = _REASONS
    for each in verdicts:
        if bad(each.outcome) and each.test not in anchors:
            details = told(each.details, _DETAILS if room > 0 else _SHORT)
            room -= len(details)
            anchor, words = f"failure-{len(found) + 1}", on_a_line(each.words(), _SHORT)
            found.append(_Failure(anchor, each.test, each.title, details, each.outcome, words))
    return found


def _summary(counts: Mapping[str, int]) -> str:
    words = {"failed": "failed", "error": "with errors", "skipped": "skipped", "passed": "passed"}
    told_of = [f"{counts[outcome]} {word}" for outcome, word in words.items() if counts[outcome]]
    return ", ".join(told_of) or "nothing was run"


def _contents(page: Page, **parts: bool) -> list[tuple[str, str]]:
    names = {
        "verdicts": bool(page.verdicts),
        "stories": bool(page.stories),
        **parts,
        "topology": page.topology is not None,
        "verifier": bool(page.programs),
        "machine": bool(page.findings),
        "facts": bool(page.facts),
    }
    return [(name, name) for name, there in names.items() if there]


def _style() -> str:
    base = templates(_PACKAGE).get_template("base.css").render()
    return "\n".join([base, STYLE, _file("page.css")])


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a Content-Security-Policy names what stands in the page itself (CSP Level 3)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
