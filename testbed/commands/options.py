"""Options that several commands have."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import ExitStack
from types import ModuleType
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

_UNUSED = ("rich.markdown.Markdown", "rich.traceback.Traceback")
_PIPED = 120  # columns: as wide as a story


def console() -> Console:
    """Where tables go. One that is no terminal, and of no width that somebody has set, is wide enough."""
    made = Console(highlight=False)
    return made if made.is_terminal or "COLUMNS" in os.environ else Console(highlight=False, width=_PIPED)


class Group(TyperGroup):
    """The commands. Their help is printed without what it has no use for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of cli.py; groups, which typer puts last, beside what they are for."""
        names = super().list_commands(ctx)
        if "kernels" in names and "vm" in names:
            names.remove("kernels")
            names.insert(names.index("vm") + 1, "kernels")
        return names

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """As typer prints it; of what it imports, markdown and tracebacks take a fifth of ``--help``."""
        with ExitStack() as stack:
            for module, _, name in (each.rpartition(".") for each in _UNUSED):
                if module not in sys.modules and "typer.rich_utils" not in sys.modules:
                    stand_in = ModuleType(module)
                    setattr(stand_in, name, None)
                    sys.modules[module] = stand_in
                    stack.callback(sys.modules.pop, module)
            importlib.import_module("typer.rich_utils")
        super().format_help(ctx, formatter)


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
