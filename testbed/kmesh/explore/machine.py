"""The state machine: every program that it makes is valid, and each act of it is a step of a `Play`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import permutations
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.strategies import SearchStrategy

from testbed.errors import TestbedError
from testbed.kmesh.abi import Absent
from testbed.kmesh.explore.link import SIDES, Link, Side
from testbed.kmesh.explore.play import Play
from testbed.kmesh.explore.stage import Failure, Stage, Step, Stopped
from testbed.lab.family import Family

T = TypeVar("T")
End = tuple[str, Side]

# Requests that nobody reads stay far below what a ring of one page holds, 85.
_MOST_CONNECTIONS = 10
_SIZES = (1, 100, 5000)
_MOST_UNREAD = 20_000  # fits into any receive buffer, so that no send blocks


class Exploration(RuleBasedStateMachine):
    """One program in a lab of its own. What can come next follows from the acts so far, from nothing else."""

    play: Play

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self.steps: list[Step] = []
        self.has_failed = False
        stage.journal.begin()
        with ExitStack() as undo, self._noting_failure():
            self.play = stage.play(undo)
            self._undo = undo.pop_all()

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.has_failed = True
            if isinstance(error, TestbedError | Absent):
                raise Stopped from error
            if isinstance(error, Exception):
                self.stage.journal.failure = Failure(tuple(self.steps), error)
            raise

    def act(self, name: str, *arguments: Any, **keywords: Any) -> None:
        step = Step(name, arguments, tuple(keywords.items()))
        self.steps.append(step)
        with self._noting_failure():
            step.play(self.play)

    def connect_marked(self, pair: tuple[str, str, str], waypoint: bool) -> None:
        marks = {"waypoint": True} if waypoint else {}
        self.act("connect", self.new_name(), *pair, **marks)

    def teardown(self) -> None:
        with self._undo:
            self._undo.callback(self.play.close_all)
            self.stage.journal.ran(len(self.steps), len(self.play.links))
            if not self.has_failed:
                with self._noting_failure():
                    self.play.finish()

    def new_name(self) -> str:
        return f"c{len(self.play.links) + 1}"

    def links(self, which: Callable[[Link], bool]) -> list[str]:
        return [name for name, link in self.play.links.items() if which(link)]

    def ends(self, which: Callable[[Link, Side], bool]) -> list[End]:
        return [(name, side) for name, link in self.play.links.items() for side in SIDES if which(link, side)]

    def has_room(self) -> bool:
        return len(self.play.links) < _MOST_CONNECTIONS

    def pairs(self) -> list[tuple[str, str, str]]:
        """Client, server and family."""
        pairs = permutations(self.play.lab.hosts, 2)
        return [(*pair, family) for pair in pairs for family in self.stage.abilities.families]

    def telling_pairs(self) -> list[tuple[str, str, str]]:
        """Those of which something is to be reported, or not for an exemption: chosen blindly, few are.

        The more there is to tell, the more often it is in the list.
        """
        managed, exempt = self.play.managed, set(self.play.exemptions.values())
        telling = []
        for client, server, family in self.pairs():
            version = Family(family).version
            source = self.play.address(client, version)
            accepting = self.play.address(server, version) in managed
            weight = int(source in managed) + int(accepting) + 4 * int(accepting and source in exempt)
            telling += [(client, server, family)] * weight
        return telling

    def marks(self) -> list[bool]:
        """Whether a client is marked for the waypoint."""
        return [False, True] if self.stage.abilities.waypoint else [False]

    def reusable(self) -> list[str]:
        """Clients' sockets that can connect anew.

        None of a waypoint: since Linux 5.16 a socket stays in the sockhash, under the tuple of its
        first connection, until it is closed, and is not taken into it a second time (EBUSY).
        """
        return self.links(lambda link: "client" in link.sockets and not link.waypoint)

    def open_ends(self) -> list[End]:
        return self.ends(lambda link, side: side in link.sockets)

    def sending(self) -> list[End]:
        return self.ends(
            lambda link, side: link.can_send(side) and sum(map(len, link.unread.values())) < _MOST_UNREAD
        )

    def receiving(self) -> list[End]:
        return self.ends(Link.can_receive)

    def shutting_down(self) -> list[End]:
        return self.ends(Link.can_send)


def chosen(of: Callable[[Exploration], Sequence[T]]) -> SearchStrategy[T]:
    """One of what there is at that point of the program; simpler is what comes first."""
    runner: SearchStrategy[Exploration] = st.runner()
    return runner.flatmap(lambda machine: st.sampled_from(of(machine)))


def when(condition: Callable[[Exploration], object]) -> Callable[[T], T]:
    """A rule that is there only then."""
    return precondition(lambda machine: bool(condition(machine)))  # type: ignore[return-value]


HOSTS = chosen(lambda machine: list(machine.play.lab.hosts))
MARKS = chosen(Exploration.marks)
ENROLLING = chosen(lambda machine: machine.stage.abilities.enrolling)


class Rules(Exploration):
    """The acts, and when each is possible."""

    @initialize(who=st.lists(st.tuples(HOSTS, ENROLLING), max_size=5, unique=True))
    def begin(self, who: list[tuple[str, str]]) -> None:
        """Without anybody managed there is nothing to report."""
        for host, family in who:
            self.act("enrol", host, family)

    @rule(host=HOSTS, family=ENROLLING)
    def enrol(self, host: str, family: str) -> None:
        self.act("enrol", host, family)

    @rule(host=HOSTS, family=ENROLLING)
    def remove(self, host: str, family: str) -> None:
        self.act("remove", host, family)

    @when(Exploration.has_room)
    @rule(pair=chosen(Exploration.pairs), waypoint=MARKS)
    def connect(self, pair: tuple[str, str, str], waypoint: bool) -> None:
        self.connect_marked(pair, waypoint)

    @when(lambda machine: machine.has_room() and machine.telling_pairs())
    @rule(pair=chosen(Exploration.telling_pairs), waypoint=MARKS)
    def connect_telling(self, pair: tuple[str, str, str], waypoint: bool) -> None:
        self.connect_marked(pair, waypoint)

    @when(lambda machine: machine.has_room() and machine.reusable())
    @rule(over=chosen(Exploration.reusable))
    def again(self, over: str) -> None:
        self.act("again", self.new_name(), over)

    @when(Exploration.reusable)
    @rule(over=chosen(Exploration.reusable))
    def refused(self, over: str) -> None:
        self.act("refused", over)

    @when(lambda machine: machine.play.queue())
    @rule(name=chosen(lambda machine: machine.play.queue()))
    def accept(self, name: str) -> None:
        self.act("accept", name)

    @when(Exploration.sending)
    @rule(end=chosen(Exploration.sending), size=st.sampled_from(_SIZES))
    def send(self, end: End, size: int) -> None:
        self.act("send", *end, size)

    @when(Exploration.receiving)
    @rule(end=chosen(Exploration.receiving))
    def receive(self, end: End) -> None:
        self.act("receive", *end)

    @when(Exploration.shutting_down)
    @rule(end=chosen(Exploration.shutting_down))
    def shutdown(self, end: End) -> None:
        self.act("shutdown", *end)

    @when(Exploration.open_ends)
    @rule(end=chosen(Exploration.open_ends))
    def close(self, end: End) -> None:
        self.act("close", *end)

    @when(Exploration.open_ends)
    @rule(end=chosen(Exploration.open_ends))
    def reset(self, end: End) -> None:
        self.act("reset", *end)

    @when(lambda machine: machine.play.links and machine.stage.abilities.verdicts)
    @rule(name=chosen(lambda machine: list(machine.play.links)), verdict=st.sampled_from(["allow", "deny"]))
    def verdict(self, name: str, verdict: str) -> None:
        self.act("verdict", name, verdict)

    @when(lambda machine: machine.stage.abilities.monitoring)
    @rule()
    def switch_monitoring(self) -> None:
        self.act("monitoring", not self.play.is_monitored)

    @when(lambda machine: machine.stage.abilities.exempting)
    @rule(
        setting=chosen(lambda machine: machine.stage.abilities.exempting),
        host=chosen(lambda machine: ["", *machine.play.lab.hosts]),
        family=ENROLLING,
    )
    def exempt(self, setting: str, host: str, family: str) -> None:
        self.act("exempt", setting, *[host, family] * bool(host))

    @rule()
    def stall_or_resume(self) -> None:
        self.act("resume" if self.play.is_stalled else "stall")
