"""Topologies from files: shipped ones by name, others by path."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from testbed.data import data_dir
from testbed.errors import UsageError
from testbed.topology.counts import Mistake
from testbed.topology.mistakes import Located, located, of_error
from testbed.topology.model import Topology
from testbed.topology.positions import Document, Mark, NotReadable, read_document
from testbed.topology.suggest import did_you_mean, listed

LARGEST = 1 << 20
"""Bytes of a file. 2,000 hosts written one by one take a quarter."""
_SUFFIXES = {".yaml", ".yml"}
_NO_COUNTS: Mapping[str, int] = {}


class TopologyError(UsageError):
    """A file that is no topology: ``mistakes`` has each, in order of the file."""

    def __init__(self, file: str, mistakes: Sequence[Located]) -> None:
        self.file = file
        self.mistakes = tuple(mistakes)
        count = f"{len(mistakes)} mistakes" if len(mistakes) > 1 else "a mistake"
        super().__init__(
            f"read the topology {file}",
            count,
            "docs/topologies.md lists every field",
            "\n".join(map(str, self.mistakes)),
        )


def shipped() -> list[str]:
    """The names of the topologies that come with the testbed."""
    return sorted(file.stem for file in data_dir("topologies").glob("*.yaml"))


def load_topology(name_or_path: str | os.PathLike[str], counts: Mapping[str, int] = _NO_COUNTS) -> Topology:
    """A shipped topology by its name, or a file by its path.

    ``counts`` are in place of the file's own, by the names of its hosts. `UsageError` says what is
    wrong; it is a `TopologyError` when the content is.
    """
    path = topology_file(name_or_path)
    return read_topology(_text(path), str(path), counts)


def topology_file(name_or_path: str | os.PathLike[str]) -> Path:
    """Where a topology is that is shipped, by its name, or that is a file, by its path."""
    path = Path(name_or_path)
    is_name = path.suffix not in _SUFFIXES and path.name == os.fspath(name_or_path)
    return data_dir("topologies") / f"{path.name}.yaml" if is_name else path


def _text(path: Path) -> str:
    what = f"read the topology {path}"
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError as error:
        raise UsageError(what, *_not_found(path)) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UsageError(what, getattr(error, "strerror", None) or str(error)) from error
    if len(data) > LARGEST:
        raise UsageError(what, f"it is larger than {LARGEST >> 20} MiB", "use count for many hosts")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        mark = Mark(before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        words = f"this is no text in UTF-8: byte 0x{data[error.start]:02x}"
        raise TopologyError(str(path), [located(str(path), mark, (), words)]) from error


def _not_found(path: Path) -> tuple[str, str]:
    names = shipped()
    if path.parent == data_dir("topologies"):
        return (
            f"there is no topology of this name{did_you_mean(path.stem, names)}",
            f"shipped ones: {', '.join(names)}; a file has .yaml behind its name",
        )
    beside = [file.name for file in path.parent.glob("*") if file.suffix in _SUFFIXES]
    return f"there is no such file{did_you_mean(path.name, beside)}", f"shipped ones: {', '.join(names)}"


def read_topology(text: str, file: str = "topology", counts: Mapping[str, int] = _NO_COUNTS) -> Topology:
    """The topology that a text is. `TopologyError` names the mistakes as those of ``file``."""
    return _read(text, file, tuple(sorted(counts.items())))


@lru_cache(maxsize=64)
def _read(text: str, file: str, counts: tuple[tuple[str, int], ...]) -> Topology:
    """Once for each text: it takes as long as a lab takes to come up."""
    try:
        document = read_document(text)
    except NotReadable as error:
        raise TopologyError(file, [located(file, error.mark, (), error.why)]) from error
    if document.data is None and not document.mistakes:
        words = "it is empty: expected a mapping (name, hosts, links, programs)"
        raise TopologyError(file, [located(file, document.root.mark, (), words)])
    _override(document, file, dict(counts))
    mistakes = [located(file, *each) for each in document.mistakes]
    topology: Topology | None = None
    try:
        topology = Topology.model_validate(document.data)
    except ValidationError as error:
        mistakes += [of_error(file, document, line) for line in error.errors(include_url=False)]
    folder = Path(file).parent
    for each in _of_paths(document.data, folder):
        mistakes.append(located(file, *document.place(each.where), each.words))
    if topology is None or mistakes:
        raise TopologyError(file, sorted(set(mistakes), key=lambda one: (one.line, one.column, one.path)))
    topology._folder = folder
    return topology


def _override(document: Document, file: str, counts: Mapping[str, int]) -> None:
    """Puts other counts in place of the file's."""
    hosts = document.data.get("hosts") if isinstance(document.data, dict) else None
    if not isinstance(hosts, dict):
        return
    for name, count in counts.items():
        what = f"take {count} hosts {name} of {file}"
        counted = [name for name, host in hosts.items() if isinstance(host, dict) and "count" in host]
        if name not in counted:
            why = f"{name} has no count" if name in hosts else f"there is no host {name}"
            raise UsageError(
                what, why + did_you_mean(name, counted), f"with a count: {listed(counted) or 'no host'}"
            )
        hosts[name] = {**hosts[name], "count": count}


def _of_paths(data: object, folder: Path) -> list[Mistake]:
    """Objects that are not within the file's directory: a file from elsewhere is to read nothing else."""
    programs = data.get("programs") if isinstance(data, dict) else None
    found: list[Mistake] = []
    for number, entry in enumerate(programs if isinstance(programs, list) else []):
        objects = entry.get("objects") if isinstance(entry, dict) else None
        for which, path in enumerate(objects if isinstance(objects, list) else []):
            if isinstance(path, str) and path and "\0" not in path and _leaves(path, folder):
                words = f"{path} is not within the file's directory"
                found.append(Mistake(("programs", number, "objects", which), words))
    return found


def _leaves(path: str, folder: Path) -> bool:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        return True
    try:
        return not (folder / pure).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a loop of symbolic links
        return True
