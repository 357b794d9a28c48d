"""The test's own witness: what must be true by the actions alone, without the oracle's replay.

The oracle goes by the callbacks that the tap has seen. A callback that the tap lost, or a model that
is wrong where the program is, goes unnoticed there: here it is counted what was done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from testbed.kernel.sockdiag import TcpState
from testbed.kmesh.abi import Absent, Direction
from testbed.kmesh.explore.link import Link
from testbed.kmesh.mesh import Mesh
from testbed.kmesh.oracle.compare import Violation
from testbed.kmesh.oracle.model import local_to_remote
from testbed.kmesh.records import Event
from testbed.lab.family import Address, ConnTuple
from testbed.observe.callbacks import Op
from testbed.observe.tap import Tap

_What = tuple[str, ConnTuple]
_CALLBACKS = {Op.ACTIVE_ESTABLISHED, Op.PASSIVE_ESTABLISHED}
_REQUEST, _VERDICT, _SOCKHASH = "request", "verdict", "sockhash entry"


def _record(event: Event) -> str:
    direction, state = event
    return f"{direction.name}/{state.name} record"


_RECORDS = {
    _record((direction, state)) for direction in Direction for state in (TcpState.ESTABLISHED, TcpState.CLOSE)
}


def _callback(op: Op) -> str:
    return f"{op.name} callback"


def _due(link: Link) -> Iterator[tuple[str, int, int]]:
    """(what, at least, at most) of one connection."""
    told = link.told
    for direction, managed in ((Direction.OUTBOUND, told.outbound), (Direction.INBOUND, told.inbound)):
        reported = int(managed and told.monitored)
        yield _record((direction, TcpState.ESTABLISHED)), reported, reported
        most = 0 if link.is_untouched else reported if link.steady else int(managed)
        least = reported if link.is_ended and link.steady else 0
        yield _record((direction, TcpState.CLOSE)), least, most
    yield _REQUEST, int(told.inbound), int(told.inbound)
    for op in _CALLBACKS:
        yield _callback(op), 1, 1
    if link.verdict is not None:
        # the server's close takes it; of a connection that nobody reports, nothing does
        kept = not link.judged_late and (link.is_untouched or not (told.inbound or told.outbound))
        gone = not link.judged_late and link.is_ended and told.inbound
        yield _VERDICT, int(kept), int(not gone)
    if link.waypoint and told.outbound:
        # since Linux 5.16 it is close() that takes a socket out, not the end of its connection
        yield _SOCKHASH, int(link.is_untouched), int("client" in link.sockets)


def _seen(mesh: Mesh, tap: Tap) -> tuple[Counter[_What], set[str]]:
    """What is told, and of what the era or the set tells nothing."""
    seen: Counter[_What] = Counter()
    blind = {_SOCKHASH} if "waypoint" in mesh.profile.lacks else set()
    for each in tap:
        if each.time_ns >= mesh.since_ns and each.op in _CALLBACKS:
            own = local_to_remote(each)
            seen[_callback(each.op), own if each.op is Op.ACTIVE_ESTABLISHED else own.reversed] += 1
    sources: tuple[tuple[set[str], Callable[[], list[_What]]], ...] = (
        (_RECORDS, lambda: [(_record(each.event), each.tuple) for each in mesh.observed.everything]),
        ({_REQUEST}, lambda: [(_REQUEST, each.tuple) for each in mesh.auth_requests.everything]),
        ({_VERDICT}, lambda: [(_VERDICT, each) for each in mesh.verdicts]),
        ({_SOCKHASH}, lambda: [(_SOCKHASH, each) for each in mesh.sockhash]),
    )
    for words, tell in sources:
        try:
            seen.update(tell())
        except Absent:
            blind |= words
    return seen, blind


def differences(links: Iterable[Link], managed: set[Address], mesh: Mesh, tap: Tap) -> Iterator[Violation]:
    """What was done and is not told, or told and was not done. The lab is at rest."""
    least: Counter[_What] = Counter()
    most: Counter[_What] = Counter()
    for link in links:  # two of them may have had the same ports
        for words, low, high in _due(link):
            least[words, link.tuple] += low
            most[words, link.tuple] += high
    seen, blind = _seen(mesh, tap)
    for what in dict.fromkeys([*least, *seen]):
        words, connection = what
        if words not in blind and not least[what] <= seen[what] <= most[what]:
            due = str(least[what]) if least[what] == most[what] else f"{least[what]} to {most[what]}"
            kind = f"{words}: {'missing' if seen[what] < least[what] else 'not called for'}"
            text = f"{words}: due by what was done {due}, seen {seen[what]}"
            yield Violation("actions", connection, text, (kind,))
    if set(mesh.managed) != managed:
        due, there = (", ".join(sorted(map(str, each))) or "nobody" for each in (managed, mesh.managed))
        words = f"due by what was done {due}, seen {there}"
        yield Violation("managed map", None, words, ("managed map: another",))
