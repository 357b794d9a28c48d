"""What a keeper tells of its lab, as lines for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

About = dict[str, Any]


def shown(value: object) -> str:
    """A cell: text as it is, anything else as JSON, a dash for nothing."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def table(rows: Sequence[Sequence[object]]) -> list[str]:
    """Rows of words, in columns."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def map_lines(each: About) -> list[str]:
    """What is in a map."""
    role = f", {each['role']}" if each["role"] else ""
    lines = [f"{each['name']} ({each['type']}{role}, at {each['where']}): {len(each['items'])} entries"]
    for item in each["items"]:
        value = _fields(item["value"]) if each["role"] == "storage" else shown(item["value"])
        lines.append(f"  {item['words'] or shown(item['key'])}: {value}")
    return lines + ["  … and more"] * each["more"]


def _fields(values: About) -> str:
    """``direction OUTBOUND, has_encoded no``."""
    words = {True: "yes", False: "no"}
    return ", ".join(
        f"{name} {words[value] if isinstance(value, bool) else shown(value)}"
        for name, value in values.items()
    )


def inspected(about: About) -> list[str]:
    """All that `inspect` is answered with."""
    lines = [
        f"{about['name']}, of {about['topology']}; process {about['pid']} keeps it; log: {about['log']}",
        f"cgroup {about['cgroup']} of cgroup v2 {about['cgroups']}",
    ]
    for host in about["hosts"]:
        lines += _host(host)
    if about["links"]:
        lines += ["", "links", *table([("name", "ends", "mtu"), *map(_link, about["links"])])]
    if about["bridges"]:
        lines += ["", "bridges", *table([("name", "ports", "mtu"), *map(_bridge, about["bridges"])])]
    heads = ("id", "name", "kind", "attached to", "set")
    keys = ("id", "name", "kind", "at", "set")
    rows = [[shown(each[key]) for key in keys] for each in about["attached"]]
    return [*lines, "", "programs", *table([heads, *rows])]


def _link(link: About) -> tuple[str, str, str]:
    ends = [
        f"{end['host']}:{end['interface']}" + (f" (port of {end['bridge']})" if end["bridge"] else "")
        for end in link["ends"]
    ]
    mtus = dict.fromkeys(shown(end["mtu"]) for end in link["ends"])
    return link["name"], " – ".join(ends), " – ".join(mtus)


def _bridge(bridge: About) -> tuple[str, str, str]:
    return f"{bridge['host']}:{bridge['name']}", ", ".join(bridge["ports"]) or "–", shown(bridge["mtu"])


def _host(host: About) -> list[str]:
    role = f" ({host['role']})" if host["role"] else ""
    lines = ["", f"{host['name']}{role}"]
    for each in host["addresses"]:
        ip = each["address"].partition("/")[0]
        managed = "  managed" if ip in host["managed"] else ""
        lines.append(f"  {each['interface']:<8}{each['address']}{managed}")
    lines += [f"  route   {route}" for route in host["routes"]]
    lines.append(f"  netns   {host['netns']}, cookie {shown(host['netns_cookie'])}, broker {host['pid']}")
    lines.append(f"  cgroup  {host['cgroup']}")
    for sock in host["sockets"]:
        ends = sock["local"] if sock["state"] == "LISTEN" else f"{sock['local']} → {sock['remote']}"
        queues = f"recv-q {sock['receive_queue']} send-q {sock['send_queue']}"
        lines.append(f"  socket  {sock['state']:<12} {ends}  {queues} cookie {sock['cookie']}")
    return lines
