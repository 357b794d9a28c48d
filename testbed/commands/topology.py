"""`testbed validate` and `testbed schema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from testbed.errors import ExitCode, TestbedError, UsageError

VALIDATE_EPILOG = (
    "Examples:  [bold]testbed validate lab.yaml[/]  ·  [bold]testbed validate topologies/*.yaml --json[/]"
)
SCHEMA_EPILOG = "Example:  [bold]testbed schema > topology.schema.json[/]"


def validate(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="Topologies, or names of shipped ones.", show_default=False),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects instead.")] = False,
) -> None:
    """Read topologies without bringing any up, and say everything that is wrong with each."""
    verdicts = [_verdict(file) for file in files]
    if as_json:
        typer.echo(json.dumps([verdict for verdict, _ in verdicts], indent=2))
    else:
        for verdict, error in verdicts:
            if error is None:
                hosts, links = (_counted(verdict[kind], kind) for kind in ("hosts", "links"))
                typer.echo(f"{verdict['file']}: ok, {hosts}, {links}")
            else:
                _print(error)
    if any(error is not None for _, error in verdicts):
        raise typer.Exit(ExitCode.USAGE)


def _verdict(file: str) -> tuple[dict[str, Any], TestbedError | None]:
    from testbed.topology.load import TopologyError, load_topology

    try:
        topology = load_topology(Path(file))
    except UsageError as error:
        found = [each.as_dict() for each in error.mistakes] if isinstance(error, TopologyError) else []
        mistakes = found or [{"file": file, "line": 0, "column": 0, "path": "", "message": error.why}]
        return {"file": file, "ok": False, "mistakes": mistakes}, error
    return {"file": file, "ok": True, "hosts": len(topology.hosts), "links": len(topology.links)}, None


def _print(error: TestbedError) -> None:
    from testbed.topology.load import TopologyError

    if isinstance(error, TopologyError):
        for mistake in error.mistakes:
            typer.echo(str(mistake), err=True)
    else:
        typer.echo(str(error), err=True)


def _counted(count: int, plural: str) -> str:
    return f"{count} {plural if count != 1 else plural.removesuffix('s')}"


def schema() -> None:
    """Print the JSON Schema of topologies, for editors."""
    from testbed.topology.schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
