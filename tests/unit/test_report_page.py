"""The report of a run as HTML: what is in it, how large it gets, and that no text does anything in it."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testbed.observe.events import Difference, Event, Kind, Scalar, Story
from testbed.report.page.compared import compare
from testbed.report.page.html import report_html
from testbed.report.page.lifelines import Lifelines, LineKind
from testbed.report.page.model import Page
from testbed.report.page.rows import Fate, fate_of, microseconds, numbered, rows_of
from testbed.report.shown import on_a_line, shown, told
from testbed.runs.model import Finding, Program, Verdict
from testbed.topology.load import load_topology
from tests.any_story import HOSTILE, stories
from tests.stories import START, Telling, failed, handshake, large, lost_fin, many, passed

VOID = {"meta", "input", "br", "path", "rect", "circle", "use", "polyline"}


class Parsed(html.parser.HTMLParser):
    """Every element with its attributes, and the words by the innermost element that they are in."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"{tag} closes what is another's"

    def handle_data(self, data: str) -> None:
        self.words.setdefault(self._open[-1] if self._open else "", []).append(data)

    def count(self, tag: str, style: str = "") -> int:
        found = [attributes.get("class") or "" for name, attributes in self.elements if name == tag]
        return sum(not style or style in each.split() for each in found)


def page_of(*told_of: Story, **more: object) -> Page:
    return replace(Page("a run", stories=told_of), **more)  # type: ignore[arg-type]


def hash_of(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def need_harmless(text: str) -> Parsed:
    """It has the one script and the one style that its policy names, and refers to nothing but itself."""
    parsed = Parsed(text)
    assert Counter(tag for tag, _ in parsed.elements)["script"] == 1
    policy = next(each["content"] for tag, each in parsed.elements if tag == "meta" and "http-equiv" in each)
    style, script = ("".join(parsed.words[tag]) for tag in ("style", "script"))
    allowed = f"script-src '{hash_of(script)}'; style-src '{hash_of(style)}'"
    assert policy == f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
    for tag, attributes in parsed.elements:
        assert tag not in {"img", "iframe", "object", "link", "embed", "b2"}
        for name, value in attributes.items():
            assert not name.startswith("on"), name
            assert name not in {"style", "src", "action", "xlink:href"}
            assert name != "href" or (value or "").startswith("#"), value
    assert not re.search(r"url\(|@import|https?:", style + script)
    ids = [each["id"] for _, each in parsed.elements if "id" in each]
    assert len(ids) == len(set(ids))
    anchors = {each["href"] for _, each in parsed.elements if "href" in each}
    assert anchors <= {f"#{each}" for each in ids}
    return parsed


def test_every_event_is_drawn() -> None:
    story = lost_fin()
    parsed = need_harmless(report_html(page_of(story)))
    kinds = Counter(each.kind for each in story.events())
    assert {kind: parsed.count("li", f"k-{kind}") for kind in kinds} == dict(kinds)
    assert parsed.count("path", "dropped") == 2, "the segment, and the gate that dropped it"
    assert parsed.count("path", "held") == 2
    assert parsed.count("path", "released") == 1
    words = parsed.words["text"]
    assert {
        "connect(10.77.0.2:8080) → 0  118.0 µs",
        "released FIN ACK, 1st of hold(Fin)",
        "SYN_SENT → ESTABLISHED",
    } <= {*words}
    assert [word.strip() for word in words[:4]] == ["µs", "client", "wire", "server"]
    assert "204.00 ms later" in parsed.words["span"]


def test_the_heading_is_the_verdict_and_what_was_under_test() -> None:
    parsed = Parsed(report_html(page_of(passed(), failed())))
    assert parsed.words["h1"] == ["1 failed, 1 passed – a run"]


def test_verdicts_stand_in_a_table_what_failed_first() -> None:
    verdicts = (
        Verdict("a[v4]", "one thing", "passed", "v4", "Closing"),
        Verdict("a[v6]", "one thing", "skipped", "v6", "Closing", details="no IPv6"),
        Verdict("b[v4]", "another", "error", "v4", "Closing", details="OSError"),
        Verdict(failed().test, failed().title, "failed", "v6", "Closing"),
    )
    parsed = need_harmless(report_html(page_of(failed(), verdicts=verdicts)))
    rows = [each["data-outcomes"] for tag, each in parsed.elements if tag == "tr" and "data-outcomes" in each]
    assert rows == ["error", "failed", "passed skipped"]
    links = [
        each["href"] for tag, each in parsed.elements if tag == "a" and "cell" in (each.get("class") or "")
    ]
    assert links == ["#failure-1", "#story-1"]
    assert "no IPv6" in "".join(parsed.words["li"])
    shared = [
        Verdict(f"c{n}", "c", outcome, row="r") for n, outcome in enumerate(("passed", "failed", "passed"))
    ]
    assert "1 of 3 FAIL" in report_html(page_of(verdicts=tuple(shared)))


def test_differences_lead_to_their_events() -> None:
    story = failed()
    events = numbered(story)
    missing, wrong, left = compare(story, events)
    assert missing.until
    assert missing.place is not None
    assert events[missing.place][0].host == "server"
    assert wrong.place is not None
    assert "4294967295" in events[wrong.place][0].text
    assert [text for text, other in wrong.expected if other] == ["6"]
    assert [text for text, other in wrong.seen if other] == ["4294967295"]
    assert (left.connection, left.until) == (1, True), "its words name the connection"
    parsed = need_harmless(report_html(page_of(story)))
    assert parsed.words["del"] == ["4294967295"]
    assert "topology pair; failing: client, server, the link client – server" in parsed.words["title"]


def test_facts_programs_and_findings() -> None:
    page = Page(
        "a run",
        topology=load_topology("routed"),
        facts=(("kernel", "6.18"),),
        programs=(Program("p", "sockops", False, "R0 invalid mem access", "0: (95) exit"),),
        findings=(Finding("headers", False, "none", "apt install"), Finding("tap", None, "not tried")),
    )
    parsed = need_harmless(report_html(page))
    assert {"verifier", "machine", "facts", "topology"} <= {*parsed.words["a"]}
    assert "0: (95) exit" in parsed.words["pre"]
    assert "router" in parsed.words["text"]
    assert parsed.words["h1"] == ["nothing was run – a run"]


@pytest.mark.parametrize(
    ("kind", "text", "details", "fate"),
    [
        (Kind.SEGMENT, "FIN dropped", {}, Fate.PASSED),
        (Kind.SEGMENT, "FIN", {"fate": "dropped"}, Fate.DROPPED),
        (Kind.GATE, "FIN held", {}, Fate.HELD),
        (Kind.GATE, "FIN", {"action": "duplicate"}, Fate.DUPLICATED),
        (Kind.GATE, "corrupted SYN", {}, Fate.CORRUPTED),
        (Kind.GATE, "released FIN ACK, 1st of hold(Fin)", {"verb": None}, Fate.RELEASED),
        (Kind.GATE, "lost FIN, 1st of hold(Fin)", {}, Fate.DROPPED),
        (Kind.GATE, "counted", {"action": 3}, Fate.PASSED),
    ],
)
def test_fates(kind: Kind, text: str, details: dict[str, Scalar], fate: Fate) -> None:
    assert fate_of(Event(0, kind, text, details=details)) is fate


def test_a_segment_goes_as_far_as_it_went() -> None:
    story = lost_fin()
    events, lines = numbered(story), Lifelines(story)
    client, server = lines.x_of("client"), lines.x_of("server")
    wire = (client + server) // 2
    ways = {
        row.label.split()[0]: (row.arrow.x, row.arrow.to)
        for row in rows_of(story, events, range(len(events)), lines, {})
        if row.arrow
    }
    assert ways["SYN"] in {(client, server), (server, client)}
    assert (ways["dropped"], ways["held"], ways["released"]) == (
        (client, wire),
        (client, wire),
        (wire, server),
    )


def test_hosts_stand_from_clients_to_servers() -> None:
    one = handshake(Telling()).done()
    via = Event(START, Kind.SEGMENT, "SYN", "client", "router", connection=one.tuple)
    lines = Lifelines(replace(passed(), connections=(replace(one, events=(via, *one.events)),)))
    assert [(line.name, line.role) for line in lines.all if line.kind is LineKind.HOST] == [
        ("client", ""),
        ("router", "in between"),
        ("server", ""),
    ]
    assert [line.x for line in lines.all] == sorted(line.x for line in lines.all)
    many_hosts = tuple(replace(one, client=f"c{number}", server=f"s{number}") for number in range(9))
    shared = Lifelines(replace(passed(), connections=many_hosts))
    assert next((line.name, line.role) for line in shared.all if line.kind is LineKind.HOST) == (
        "clients",
        "9 hosts",
    )


@pytest.mark.long
def test_a_large_run_is_bounded() -> None:
    text = report_html(page_of(large(4100), name="r1"))
    parsed = need_harmless(text)
    assert parsed.count("li", "ev") == 4000
    assert "100 events are not drawn here" in text
    assert "testbed story r1" in parsed.words["code"]
    small = report_html(page_of(*many(30)), 1 << 20)
    assert 900_000 < len(small.encode()) <= 1 << 20
    parsed = need_harmless(small)
    assert parsed.count("details", "failed") == 1, "what failed has room first"
    assert "Stories that are not drawn here" in small
    long = replace(failed(), message="x" * 10**7, lost=("y" * 10**6,) * 100)
    verdicts = tuple(Verdict(str(number), "t", "failed", details="z" * 10**5) for number in range(100))
    assert len(report_html(page_of(long, verdicts=verdicts))) < 3 << 20


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_words_are_but_shown(text: str) -> None:
    event = Event(START, Kind.RECORD, text, text, text, details={text: text})
    difference = Difference(text, text, text[::-1], host=text, link=(text, text))
    story = Story(
        text, text, text, text, {text: text}, others=(event,), differences=(difference,), lost=(text,)
    )
    page = Page(
        text,
        (
            Verdict(text, text, "failed", text, text, text, details=text),
            Verdict("x", text, "skipped", details=text),
        ),
        (story,),
        facts=((text, text),),
        programs=(Program(text, text, False, text, text),),
        findings=(Finding(text, False, text, text),),
        name=text,
    )
    parsed = need_harmless(report_html(page))
    assert parsed.words["h1"] == [f"1 failed, 1 skipped – {shown(text)}"]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(stories(), min_size=1, max_size=3))
def test_any_story_makes_a_harmless_page(every: list[Story]) -> None:
    """Whatever is in it, and twice the same test: each event is a row, and nothing does anything."""
    parsed = need_harmless(report_html(page_of(*every)))
    assert parsed.count("li", "ev") == sum(1 for story in every for _ in story.events())


def test_texts() -> None:
    assert shown("\x1b[1m\u202e\ud800é\t\n") == "\\x1b[1m\\u202e\\ud800é\t\n"
    assert on_a_line("a\n b " + "x" * 50, 10) == "a b xxxxx…"
    assert told("x" * 12, 5) == "xxxxx… 7 more characters"
    assert microseconds(1_234_567_890) == "1\u202f234\u202f567.9"
    assert json.dumps(shown("plain")) == '"plain"'
