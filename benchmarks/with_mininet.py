"""The pair by Mininet, for Debian's Python: a line on stdin asks for one, the answer is nanoseconds.

Two nodes and a link by its API, no switch and no controller; what that has no call for is a command a node.
"""

from __future__ import annotations

import importlib
import sys
import time

IP6 = "ip addr add fd77::{own}/64 dev {device} nodad && ip -6 route add default via fd77::{other}"


def main() -> None:
    node = importlib.import_module("mininet.node").Node
    link = importlib.import_module("mininet.link").Link
    importlib.import_module("mininet.log").setLogLevel("error")
    for number, _ in enumerate(sys.stdin):
        start = time.perf_counter_ns()
        hosts = [node(f"c{number}"), node(f"s{number}")]
        link(*hosts)
        for own, other, host in ((1, 2, hosts[0]), (2, 1, hosts[1])):
            host.setIP(f"10.77.0.{own}/24")
            host.setDefaultRoute(f"via 10.77.0.{other}")
            said = host.cmd(IP6.format(own=own, other=other, device=host.defaultIntf()))
            if said.strip():
                raise SystemExit(said)
        took = time.perf_counter_ns() - start
        sys.stdout.write(f"{took}\n")
        sys.stdout.flush()
        for host in hosts:
            host.terminate()
        sys.stdout.write("removed\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
