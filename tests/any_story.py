"""Stories at random, with words in them that would do something on a page that let them."""

from __future__ import annotations

from hypothesis import strategies as st

from testbed.lab.family import ConnTuple
from testbed.observe.events import ConnectionStory, Difference, Event, Kind, Story
from tests.stories import PAIR

HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "--></style></svg></details><img src=x onerror=document.title='owned'>",
    "\"' onmouseover='document.title=1' {{ 7 * 7 }} {% raw %} &lt;b&gt; &amp; ]]>",
    "\x00\x1b[31mred\x07 \ud800 \x85 \ufffe",
    "\u202eevil\u2066 \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u05e9\u05dc\u05d5\u05dd",
    "x" * 10_000,
    "word " * 2_000,
)

_texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=60))
_hosts = st.one_of(st.none(), st.sampled_from(["client", "server", "router"]), _texts)
_values = st.one_of(_texts, st.integers(), st.floats(), st.booleans(), st.none())
_tuples = st.builds(
    ConnTuple,
    st.ip_addresses(),
    st.integers(0, 65535),
    st.ip_addresses(),
    st.integers(0, 65535),
)


@st.composite
def events(draw: st.DrawFn) -> Event:
    """Anything that an event can be, hostile in every word of it."""
    return Event(
        draw(st.integers(-(2**63), 2**63)),
        draw(st.sampled_from(Kind)),
        draw(_texts),
        draw(_hosts),
        draw(_hosts),
        draw(st.one_of(st.none(), st.integers(0, 2**64 - 1))),
        draw(st.one_of(st.none(), _tuples)),
        draw(
            st.dictionaries(
                st.one_of(st.sampled_from(["took_ns", "fate", "action", "back"]), _texts), _values, max_size=4
            )
        ),
    )


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Any story; its connections are numbered from 1."""
    connections = tuple(
        ConnectionStory(number, draw(_tuples), draw(_hosts), draw(_hosts), tuple(told))
        for number, told in enumerate(draw(st.lists(st.lists(events(), max_size=6), max_size=3)), 1)
    )
    known = st.sampled_from([each.tuple for each in connections]) if connections else st.none()
    link = st.one_of(st.none(), st.tuples(_texts, _texts))
    differences = st.builds(
        Difference, _texts, _texts, _texts, st.one_of(st.none(), known, _tuples), _hosts, link
    )
    return Story(
        draw(_texts),
        draw(_texts),
        draw(st.one_of(st.sampled_from(["passed", "failed", "skipped", "error"]), _texts)),
        draw(_texts),
        draw(st.sampled_from([{}, PAIR, {"name": 3}, {HOSTILE[0]: HOSTILE[1]}])),
        connections,
        tuple(draw(st.lists(events(), max_size=3))),
        tuple(draw(st.lists(differences, max_size=3))),
        tuple(draw(st.lists(_texts, max_size=2))),
        draw(st.integers(-(2**63), 2**63)),
    )
