"""The machine as it is: everything that a run could change beside its labs.

It is taken down before the tests and after them, and compared. ``python -m tests.host snapshot FILE``
takes it down, ``python -m tests.host compare FILE`` says what is no longer so, and ends with 1 then.
What a lab is made of is in namespaces and cgroups of its own and is not looked at here; that it goes
away is told by `tests.machine`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.host_bpf import Attachments, mounted

Snapshot = dict[str, list[str]]
"""Facts by kind, a line each."""

_CHANGES_BY_ITSELF = {
    r"fs/(dentry|inode)-state|fs/(file|inode|aio)-nr|fs/quota/.*": "counts of what is open and cached",
    r"fs/binfmt_misc/.*": "the registered formats: a mount of its own, there or not",
    r"kernel/random/.*": "entropy and identifiers: another one with each look",
    r"kernel/ns_last_pid|kernel/pty/nr": "counts of processes and terminals",
    r"kernel/perf_event_max_sample_rate": "the kernel lowers it when sampling takes too long",
    r"kernel/hung_task_detect_count|kernel/tainted": "counts of what the kernel complained of",
    r"net/netfilter/nf_conntrack_(count|.*buckets)": "connections that are tracked now",
    r"net/ipv[46]/(neigh|conf)/[^/]+/base_reachable_time.*": "a random part of it is drawn anew",
    r"sunrpc/.*": "transports come and go with mounts",
    r"vm/(drop_caches|compact_memory|stat_refresh)|net/ipv[46]/route/flush": "to be written, not read",
    r"vm/(min_free_kbytes|user_reserve_kbytes|admin_reserve_kbytes)": "follow memory that is plugged in",
}
"""Sysctls that are left out, and why."""
_LEFT_OUT = re.compile("|".join(f"(?:{pattern})" for pattern in _CHANGES_BY_ITSELF))
_LINK = ("ADDRESS", "BROADCAST", "MTU", "TXQLEN", "QDISC", "MASTER", "LINK", "XDP", "IFALIAS", "PROMISCUITY")
_OF_RUNS = re.compile(r"sockops-testbed-|testbed-fault-")
OF_OTHER_TESTS = re.compile(rf"{_OF_RUNS.pattern}|foreign-[0-9a-f]{{16}}")
"""What tests make on purpose, of this session and of others at once: like runs' own, and like others'."""
_UNCOMPARED = ("modules", "cgroups seen")
_CLONED = 0x200  # RTM_F_CLONED: a cached route
_PERMANENT = 0x80  # NUD_PERMANENT
_SECONDS = re.compile(r"(CACHEINFO|STATS|STATS2|STATS_BASIC)$")


def _plain(value: Any) -> Any:
    """A netlink message as values that two of them can be compared by: without times, counts and headers."""
    if isinstance(value, dict):
        kept = {
            name: _plain(each)
            for name, each in value.items()
            if name not in {"attrs", "header", "event", "__align", "change"}
        }
        for name, each in value.get("attrs", ()):
            if name != "UNKNOWN" and not _SECONDS.search(name):
                kept[name] = _plain(each)
        return kept
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.hex() if isinstance(value, bytes) else value


def _line(value: object) -> str:
    return json.dumps(_plain(value), sort_keys=True, default=str)


def _network() -> Iterator[tuple[str, str]]:
    """Everything that rtnetlink dumps of this network namespace."""
    from pyroute2.iproute.linux import IPRoute

    with IPRoute() as route:
        for link in list(route.get_links()):
            attributes = dict(link["attrs"])
            about = {name: _plain(attributes.get(f"IFLA_{name}")) for name in _LINK}
            kind = dict(attributes.get("IFLA_LINKINFO", {"attrs": []})["attrs"]).get("IFLA_INFO_KIND")
            facts = {"index": link["index"], "flags": link["flags"], "kind": kind, **about}
            yield "links", f"{attributes['IFLA_IFNAME']} {_line(facts)}"
        yield from (("addresses", _line(each)) for each in route.get_addr())
        for family in (2, 10, 7):  # AF_INET, AF_INET6, AF_BRIDGE
            for neighbour in route.get_neighbours(family=family):
                if neighbour["state"] & _PERMANENT:
                    yield "permanent neighbours", _line(neighbour)
        for family in (2, 10):
            for each in route.get_routes(family=family):
                if not each["flags"] & _CLONED:
                    yield "routes", _line(each)
            yield from (("rules", _line(each)) for each in route.get_rules(family=family))
        qdiscs = list(route.get_qdiscs())
        yield from (("qdiscs", _line(each)) for each in qdiscs)
        for qdisc in qdiscs:
            if dict(qdisc["attrs"]).get("TCA_KIND") in {"clsact", "ingress"}:
                for parent in (0xFFFFFFF2, 0xFFFFFFF3):  # TC_H_MIN_INGRESS and …EGRESS of TC_H_CLSACT
                    for found in route.get_filters(index=qdisc["index"], parent=parent):
                        yield "filters", _line(found)


def _netfilter() -> Iterator[tuple[str, str]]:
    """nf_tables by nfnetlink, which has what `nft list ruleset` prints; and the names of legacy tables."""
    from pyroute2.nftables.main import NFTables

    try:
        with NFTables() as tables:
            for what in ("tables", "chains", "rules", "sets"):
                yield from (
                    ("netfilter", f"{what} {_line(each)}") for each in getattr(tables, f"get_{what}")()
                )
    except Exception as error:  # noqa: BLE001 (a kernel without nf_tables, however pyroute2 says so)
        yield "netfilter", f"none: {type(error).__name__}"
    for name in ("ip", "ip6", "arp"):
        with suppress(OSError):
            for table in Path(f"/proc/net/{name}_tables_names").read_text(encoding="ascii").split():
                yield "netfilter", f"legacy table {name} {table}"


def _sysctls() -> Iterator[tuple[str, str]]:
    for folder, _, files in os.walk("/proc/sys"):
        for file in files:
            path = f"{folder}/{file}"
            name = path.removeprefix("/proc/sys/")
            if not _LEFT_OUT.fullmatch(name):
                yield "sysctls", f"{name} = {_value(path)}"


def _value(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return "(unreadable)"
    try:
        return os.read(fd, 16384).decode(errors="replace").strip()
    except OSError:
        return "(unreadable)"
    finally:
        os.close(fd)


def _cgroups() -> Iterator[tuple[str, str]]:
    """The top of each hierarchy, where the testbed makes its own; what is below comes and goes with services.

    Those that runs and tests make are left out, anybody's: that they go is told by the leak bill and `gc`.
    """
    for kind in ("cgroup", "cgroup2"):
        for root in mounted(kind):
            yield "cgroups", f"{root} controllers below: {_value(f'{root}/cgroup.subtree_control')}"
            for path in _walk(root):
                relative = path.removeprefix(f"{root}/")
                if _OF_RUNS.match(relative):
                    continue
                if kind == "cgroup2":
                    yield "cgroups seen", path
                if "/" not in relative:
                    yield "cgroups", path


def _walk(root: str) -> Iterator[str]:
    for folder, names, _ in os.walk(root):
        yield from (f"{folder}/{name}" for name in names)


def _names() -> Iterator[tuple[str, str]]:
    for path in Path("/run/netns").glob("*"):
        with suppress(FileNotFoundError):
            yield "named namespaces", f"{path.name} {path.stat().st_ino}"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields, _, rest = line.partition(" - ")
        yield "mounts", f"{' '.join(fields.split()[3:6])} {rest}"
    for point in mounted("bpf"):
        yield from (("pins", path) for path in sorted(map(str, Path(point).rglob("*"))))
    with suppress(FileNotFoundError):
        modules = Path("/proc/modules").read_text(encoding="ascii").splitlines()
        yield from (("modules", line.split()[0]) for line in modules)


def snapshot() -> Snapshot:
    """The machine as it is now, as this process's namespaces show it. Needs root. 0.1 s."""
    found: Snapshot = {}
    for look in (_network, _netfilter, _sysctls, _cgroups, _names):
        for kind, line in look():
            found.setdefault(kind, []).append(line)
    links = [line.partition(" ")[0] for line in found.get("links", [])]
    with Attachments() as attachments:
        found["BPF"] = [*attachments.of_cgroups(found.get("cgroups seen", [])), *attachments.of_net(links)]
    return {kind: sorted(lines) for kind, lines in sorted(found.items())}


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """What is not as it was, a line each: ``- sysctls: …`` is gone, ``+ links: …`` is new.

    Kernel modules can have been loaded, for a test's first netem or so. What is attached to a cgroup counts
    where that was there both times.
    """
    both = set(before.get("cgroups seen", ())) & set(after.get("cgroups seen", ()))
    found = []
    for kind in sorted({*before, *after} - {*_UNCOMPARED}):
        sets = [set(each.get(kind, ())) for each in (before, after)]
        if kind == "BPF":
            sets = [{line for line in each if _counts(line, both)} for each in sets]
        was, now = sets
        found += [f"- {kind}: {line}" for line in sorted(was - now)]
        found += [f"+ {kind}: {line}" for line in sorted(now - was)]
    return found


def _counts(line: str, cgroups: set[str]) -> bool:
    kind, _, rest = line.partition(" ")
    return kind != "cgroup" or rest.rpartition(": ")[0] in cgroups


def main(verb: str, file: str) -> int:
    """The command. Returns its exit code."""
    if verb == "snapshot":
        Path(file).write_text(json.dumps(snapshot(), indent=1), encoding="utf-8")
        return 0
    if verb != "compare":
        sys.stderr.write(f"{verb!r} is neither snapshot nor compare\n")
        return 2
    lines = differences(json.loads(Path(file).read_text(encoding="utf-8")), snapshot())
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 1 if lines else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.stderr.write("python -m tests.host snapshot|compare FILE\n")
        sys.exit(2)
    sys.exit(main(*sys.argv[1:]))
