"""`testbed kernels`: what can be had, fetched, and where it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from testbed.errors import UsageError, command

if TYPE_CHECKING:
    from testbed.kernels.cache import Freed
    from testbed.kernels.index import Index, Offer
    from testbed.kernels.kernel import Kernel

_HEADINGS = ("series", "version", "release", "suite", "size", "")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Kernels to check on: list what can be had, fetch it, say where it is. Root is not needed.",
    epilog="Examples:  [bold]testbed kernels list[/]  ·  [bold]testbed kernels fetch 6.1 6.12 7[/]  ·  "
    "[bold]testbed kernels prune --cap 2G[/]     The cache is in TESTBED_CACHE, or in your cache directory.",
)
Archive = Annotated[
    str | None,
    typer.Option(
        "--archive",
        metavar="URL",
        help="Debian's archive; otherwise TESTBED_DEBIAN_ARCHIVE, or the one that this machine's apt uses.",
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME",
        help="A series (6.12; 7 is the newest 7.x), a version, an image, a build tree, or [bold]host[/].",
        show_default=False,
    ),
]
Modules = Annotated[
    Path | None, typer.Option("--modules", metavar="DIR", help="The modules of an image given as a path.")
]


@app.command(
    "list",
    epilog="Examples:  [bold]testbed kernels list[/]  ·  "
    "[bold]testbed kernels list --all-versions --refresh[/]",
)
def list_(
    all_versions: Annotated[
        bool, typer.Option("--all-versions", help="All versions, not only the newest of each series.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects instead.")] = False,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Fetch the archive's lists now; otherwise once a day.")
    ] = False,
    archive: Archive = None,
) -> None:
    """Show the kernels that can be had, newest of each series first."""
    from testbed.kernels.archive import get_index
    from testbed.kernels.find import newest_of_each
    from testbed.kernels.progress import shown

    with shown() as progress:
        index = get_index(progress, archive=archive, refresh=refresh)
    newest = newest_of_each(index)
    offers = list(reversed(index.offers if all_versions else newest))
    if as_json:
        typer.echo(json.dumps([_as_dict(offer) for offer in offers], indent=2))
        return
    _print_offers(offers, {offer.version for offer in newest}, index)


def _print_offers(offers: list[Offer], newest: set[str], index: Index) -> None:
    console = Console(highlight=False)
    rows = [_row(offer, offer.version in newest) for offer in offers]
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
    styles = ["bold", *("dim" if offer.missing else "" for offer in offers)]
    for style, row in zip(styles, (_HEADINGS, *rows), strict=True):
        line = "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        console.print(line, style=style, soft_wrap=True)
    if any(offer.missing for offer in offers):
        console.print("incomplete: the archive no longer has its modules", style="dim")
    if index.is_old:
        console.print(f"the lists are {index.age} old", style="dim")


def _row(offer: Offer, is_newest: bool) -> tuple[str, ...]:
    state = "incomplete" if offer.missing else "cached" if offer.is_cached else ""
    series = offer.series if is_newest else ""
    return series, offer.version, offer.release, offer.suite, f"{offer.size / 1e6:.0f} MB", state


def _as_dict(offer: Offer) -> dict[str, object]:
    return {
        "series": offer.series,
        "version": offer.version,
        "release": offer.release,
        "suite": offer.suite,
        "size": offer.size,
        "cached": offer.is_cached,
        "missing": list(offer.missing),
    }


@app.command(
    epilog="Examples:  [bold]testbed kernels fetch 6.12[/]  ·  [bold]testbed kernels fetch --all[/]  ·  "
    "[bold]testbed kernels fetch 6.1.0-50-cloud-amd64[/]"
)
def fetch(
    names: Names = None,
    everything: Annotated[bool, typer.Option("--all", help="The newest of each series.")] = False,
    archive: Archive = None,
) -> None:
    """Fetch kernels into the cache; check each byte of those that are in it."""
    from testbed.kernels.find import every_series, find_kernels
    from testbed.kernels.progress import shown

    if not names and not everything:
        raise UsageError("fetch kernels", "none is named", f"{command('kernels fetch 6.12')}, or --all")
    with shown() as progress:
        wanted = [*(names or ()), *(every_series(progress=progress, archive=archive) if everything else ())]
        kernels = find_kernels(wanted, progress=progress, archive=archive, wholly=True)
    for kernel in kernels:
        typer.echo(f"{kernel.label}: {kernel.release}")


@app.command(
    epilog="Examples:  [bold]testbed kernels path 6.12[/]  ·  "
    "[bold]testbed kernels path ~/linux --json[/]  ·  "
    "[bold]testbed kernels path ./bzImage --modules /tmp/mods[/]"
)
def path(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As for fetch.", show_default=False)],
    modules: Modules = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print an object instead.")] = False,
    archive: Archive = None,
) -> None:
    """Print where a kernel's image is and, on a second line, its modules; fetch it if need be."""
    from testbed.kernels.find import find_kernels

    (kernel,) = find_kernels([name], modules=modules, archive=archive)
    if as_json:
        typer.echo(json.dumps(_paths(kernel), indent=2))
        return
    typer.echo(kernel.image)
    if kernel.modules is not None:
        typer.echo(kernel.modules)


def _paths(kernel: Kernel) -> dict[str, str | None]:
    return {
        "name": kernel.label,
        "release": kernel.release,
        "image": str(kernel.image),
        "modules": None if kernel.modules is None else str(kernel.modules),
        "digest": kernel.digest,
    }


@app.command(
    epilog="Examples:  [bold]testbed kernels prune[/]  ·  [bold]testbed kernels prune --cap 500M[/]  ·  "
    "[bold]testbed kernels prune --all[/]"
)
def prune(
    everything: Annotated[
        bool, typer.Option("--all", help="All of the cache: kernels, lists, what was begun, snapshots.")
    ] = False,
    cap: Annotated[
        str | None,
        typer.Option("--cap", metavar="SIZE", help="What may stay; otherwise TESTBED_CACHE_CAP, or 4G."),
    ] = None,
) -> None:
    """Remove from the cache what was used longest ago, until the rest is within the cap."""
    from testbed.kernels.cache import parse_size, prune

    if everything and cap is not None:
        raise UsageError("use --cap", "--all leaves nothing", "leave one of them out")
    _print_freed(prune(None if cap is None else parse_size(cap), everything=everything))


def _print_freed(freed: list[Freed]) -> None:
    for each in freed:
        typer.echo(f"{each.size / 1e6:8.1f} MB  {each.name}")
    typer.echo(f"{sum(each.size for each in freed) / 1e6:8.1f} MB freed")
