"""netem, the kernel's network emulator: what an end of a link does to the packets that leave by it.

It is the end's root qdisc (``sch_netem``, a module of most kernels, and absent from some). Chances
are drawn for each packet: what must happen to one segment and no other is a gate's.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from typing import Any

from testbed.errors import MachineError, UsageError, command, errno_name
from testbed.kernel.links import End
from testbed.kernel.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, Message, dump, encode

_RTM_NEWQDISC, _RTM_DELQDISC = 36, 37
_ROOT = 0xFFFFFFFF  # TC_H_ROOT
_HANDLE = 0x10000  # 1:0
_TICK_SHIFT = 6  # PSCHED_SHIFT of include/net/pkt_sched.h: a tick is 64 ns
_MOST_NS = (0xFFFFFFFF << _TICK_SHIFT) - 1
_MOST_RATE = 0xFFFFFFFF * 8  # TCA_NETEM_RATE is of 32 bits, in bytes a second
_CERTAIN = 0xFFFFFFFF
LIMIT = 1000
"""How many packets are under way at most, in one direction; what comes beyond is lost."""
_NO_NETEM = {errno.ENOENT, errno.EOPNOTSUPP}
_NOTHING_THERE = {errno.ENOENT, errno.EINVAL}


@dataclass(frozen=True)
class Netem:
    """Times in ns, chances in percent of the packets, ``rate_bits`` in bit/s; 0 leaves each one out.

    ``jitter_ns`` is how far a delay may be off (evenly spread). A packet that is reordered does not
    wait for its delay, so that it overtakes those that do. `UsageError` for what makes no sense.
    """

    delay_ns: int = 0
    jitter_ns: int = 0
    loss: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0
    rate_bits: int = 0

    def __post_init__(self) -> None:
        for why in (*_out_of_bounds(self), *_contradictions(self)):
            raise UsageError("impair a link", why)

    @property
    def is_nothing(self) -> bool:
        """Whether it leaves every packet alone."""
        return not any(getattr(self, each.name) for each in fields(self))


def _out_of_bounds(netem: Netem) -> list[str]:
    bounds = [("delay", netem.delay_ns, _MOST_NS, "ns"), ("jitter", netem.jitter_ns, _MOST_NS, "ns")]
    bounds += [(name, getattr(netem, name), 100, "%") for name in ("loss", "reorder", "duplicate")]
    bounds += [("rate", netem.rate_bits, _MOST_RATE, "bit/s")]
    return [
        f"a {name} of {value} {unit} is not between 0 and {most}"
        for name, value, most, unit in bounds
        if not 0 <= value <= most
    ]


def _contradictions(netem: Netem) -> list[str]:
    found = []
    if netem.jitter_ns > netem.delay_ns:
        found.append("the jitter is larger than the delay that it is a part of")
    if netem.reorder and not netem.delay_ns:
        found.append("without a delay, nothing is there for a reordered packet to overtake")
    if 0 < netem.rate_bits < 8:
        found.append("a rate is at least 8 bit/s: the kernel counts bytes")
    return found


@cache
def _class() -> Callable[[], Any]:
    # Importing pyroute2 takes longer than all the rest of a small command.
    from pyroute2.netlink.rtnl.tcmsg import tcmsg

    build: Callable[[], Any] = tcmsg
    return build


def _chance(percent: float) -> int:
    return round(percent * _CERTAIN / 100)


def impair_end(sock: socket.socket, end: End, netem: Netem) -> None:
    """From now on that is what happens to packets that leave by this end, and nothing else.

    ``sock`` is a NETLINK_ROUTE socket of its namespace. `MachineError` where the kernel has no netem.
    """
    if netem.is_nothing:
        mend_end(sock, end)
        return
    message = _setting(end, netem)
    try:
        dump(sock, message.data)
    except OSError as error:
        if error.errno not in _NO_NETEM:
            raise MachineError(message.what, errno_name(error.errno or 0)) from error
        raise MachineError(
            message.what,
            "this kernel has no netem (CONFIG_NET_SCH_NETEM)",
            f"gates need none (docs/gates.md), and guests have it: `{command('vm --kernel 6.12')}`",
        ) from error


def mend_end(sock: socket.socket, end: End) -> None:
    """From now on packets leave by this end as they are; harmless where they did."""
    message = _removing(end)
    try:
        dump(sock, message.data)
    except OSError as error:
        if error.errno not in _NOTHING_THERE:
            raise MachineError(message.what, errno_name(error.errno or 0)) from error


@lru_cache(maxsize=256)
def _setting(end: End, netem: Netem) -> Message:
    options: dict[str, Any] = {
        "delay": netem.delay_ns >> _TICK_SHIFT,
        "jitter": netem.jitter_ns >> _TICK_SHIFT,
        "limit": LIMIT,
        "loss": _chance(netem.loss),
        "duplicate": _chance(netem.duplicate),
        "gap": 1 if netem.reorder else 0,  # each packet may be one: without a gap, none is
        "attrs": [],
    }
    if netem.reorder:
        reorder = {"prob_reorder": _chance(netem.reorder), "corr_reorder": 0}
        options["attrs"].append(("TCA_NETEM_REORDER", reorder))
    if netem.rate_bits:
        nothing = {"packet_overhead": 0, "cell_size": 0, "cell_overhead": 0}
        options["attrs"].append(("TCA_NETEM_RATE", {"rate": netem.rate_bits // 8, **nothing}))
    return encode(
        f"impair {end.name}",
        _class(),
        _RTM_NEWQDISC,
        {
            "index": end.index,
            "handle": _HANDLE,
            "parent": _ROOT,
            "attrs": [("TCA_KIND", "netem"), ("TCA_OPTIONS", options)],
        },
        flags=NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK,
    )


@lru_cache(maxsize=256)
def _removing(end: End) -> Message:
    return encode(
        f"mend {end.name}",
        _class(),
        _RTM_DELQDISC,
        {"index": end.index, "handle": _HANDLE, "parent": _ROOT, "attrs": [("TCA_KIND", "netem")]},
        flags=NLM_F_ACK,
    )
