"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

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
