"""Options that several commands have."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.console import Console

_PIPED = 120  # columns: as wide as a story


def console() -> Console:
    """Where tables go. One that is no terminal, and of no width that somebody has set, is wide enough."""
    made = Console(highlight=False)
    return made if made.is_terminal or "COLUMNS" in os.environ else Console(highlight=False, width=_PIPED)


TailCalls = Annotated[
    list[str] | None,
    typer.Option("--tail-call", metavar="MAP:INDEX=PROGRAM", help="An entry of a program array."),
]
InnerMaps = Annotated[
    list[str] | None,
    typer.Option(
        "--inner-map",
        metavar="MAP=TYPE:KEY:VALUE:ENTRIES",
        help="What the maps in a map of maps look like, where the object does not say.",
    ),
]
