"""The pair by munet, for a Python that has it: a line on stdin asks for one, the answer is nanoseconds."""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
import tempfile
import time


def _node(own: int, name: str, peer: str) -> dict[str, object]:
    link = {"to": peer, "name": "eth0", "ip": f"10.77.0.{own}/24", "ipv6": f"fd77::{own}/64"}
    return {"name": name, "connections": [link]}


def _say(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def _serve(folder: str) -> None:
    build = importlib.import_module("munet.parser").async_build_topology
    for number, _ in enumerate(sys.stdin):
        config = {
            "config_pathname": f"{folder}/munet.yaml",
            "topology": {"nodes": [_node(1, "client", "server"), _node(2, "server", "client")]},
        }
        start = time.perf_counter_ns()
        made = await build(config, rundir=f"{folder}/{number}", logger=logging.getLogger("munet"))
        _say(time.perf_counter_ns() - start)
        await made.async_delete()
        _say("removed")


def main() -> None:
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_serve(folder))


if __name__ == "__main__":
    main()
