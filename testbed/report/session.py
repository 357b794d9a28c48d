"""A pytest session of the contract's scenarios: how it is asked for, and what is kept out of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import testbed.kmesh.scenarios

SCENARIOS = Path(testbed.kmesh.scenarios.__file__).parent
_PRINTED_NAME = re.compile(r"(\w+)::([\w\[\]-]+)")
_PLUGINS = (
    "testbed.pytest_plugin",
    "testbed.pytest_objects",
    "testbed.pytest_lab",
    "testbed.pytest_record",
    "testbed.report.about",
)
# Of no use to the scenarios, and most of them at work around each.
_WITHOUT = (
    "cacheprovider",
    "doctest",
    "logging",
    "pastebin",
    "threadexception",
    "unraisableexception",
    "warnings",
)


@dataclass(frozen=True)
class Selection:
    """Which scenarios, on which objects and interface: as the options of ``testbed check``.

    Empty is what the option has by default.
    """

    families: str = ""
    expression: str = ""
    abi: str = ""
    objects: tuple[Path, ...] = ()
    tail_calls: tuple[str, ...] = ()
    inner_maps: tuple[str, ...] = ()
    record: str = "off"
    hold: bool = False
    run: Path | None = None
    capsule: Path | None = None
    under_test: str = ""
    asked_by: str = ""
    quick: bool = False
    """Each scenario in one of the families (`testbed.report.one_family`)."""

    def arguments(self) -> list[str]:
        """Those of pytest, which runs elsewhere: files are named by their whole paths."""
        words = [str(SCENARIOS), "-c", os.devnull, "--rootdir", str(SCENARIOS), "--tb", "short"]
        words.append("--capture=sys")  # cheaper than that of descriptors, and only Python writes here
        words += [word for name in (*_PLUGINS, *(f"no:{each}" for each in _WITHOUT)) for word in ("-p", name)]
        if self.families:
            words.append(f"--family={self.families}")
        words += ["--one-family"] if self.quick else []
        if self.expression:
            # a name as it is printed, 4_close::x[v4], is in a module and in a test
            words.append("-k" + _PRINTED_NAME.sub(r"(\1 and \2)", self.expression))
        if self.abi:
            words.append(f"--abi={Path(self.abi).resolve() if Path(self.abi).is_file() else self.abi}")
        words.append(f"--record={self.record}")
        for option, text in (("--under-test", self.under_test), ("--asked-by", self.asked_by)):
            words += [f"{option}={text}"] if text else []
        words += ["--hold-on-fail"] if self.hold else []
        for option, path in (("--run", self.run), ("--capsule", self.capsule)):
            words += [f"{option}={path.resolve()}"] if path is not None else []
        words += _each("--object", [str(path.resolve()) for path in self.objects])
        words += _each("--tail-call", self.tail_calls)
        return words + _each("--inner-map", self.inner_maps)


def _each(option: str, values: Sequence[str]) -> list[str]:
    """In one word: pytest would look for options of its own in a value that stands alone."""
    return [f"{option}={value}" for value in values]


@contextmanager
def only_ours() -> Iterator[None]:
    """No plugin or option that a person's own pytest runs have: the contract runs the same everywhere."""
    before = dict(os.environ)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
