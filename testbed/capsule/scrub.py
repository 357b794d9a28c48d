"""Takes out of texts what is nobody's business: paths become base names, the host and its users no one's.

A path within the project stays as it is from the project on, one of the system (``/usr``, ``/proc``, …)
stays whole.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.data import data_dir

_SYSTEM = ("/usr/", "/proc/", "/sys/", "/dev/", "/lib/", "/boot/")
_PATH = re.compile(r"(?<![\w.~/\])-])/(?:[\w.+@~=-]+/)+[\w.+@~=-]*")
_UPWARDS = re.compile(r"(?<![\w./])(?:\.\./)+(?:[\w.+@~=-]+/)*")
_HOME = re.compile(r"/(?:home|Users)/[^/\s:;,'\")\]]+")
_TILDE = "/~"
_USER_NAMES = ("USER", "LOGNAME", "SUDO_USER", "USERNAME")
_NO_SECRET = {"root", "localhost", "nobody", ""}


@dataclass(frozen=True)
class Scrubber:
    """``project`` is cut from the paths in it, ``homes`` are directories of users, ``names`` are replaced."""

    project: str
    homes: tuple[str, ...]
    names: tuple[tuple[str, str], ...]

    def text(self, text: str) -> str:
        """The text without them."""
        text = _UPWARDS.sub("", text.replace(f"{self.project}/", ""))
        for home in self.homes:
            text = re.sub(rf"{re.escape(home)}(?![\w.-])", _TILDE, text)
        text = _HOME.sub(_TILDE, text)
        text = _PATH.sub(lambda found: _cut(found[0]), text).replace(_TILDE, "~")
        for name, word in self.names:
            text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", word, text)
        return text

    def value(self, value: Any) -> Any:
        """JSON values, with every text in them so; the keys of objects stay."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self.value(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.value(each) for each in value]
        return value


def _cut(path: str) -> str:
    if path.startswith(_SYSTEM):
        return path
    return path.rstrip("/").rpartition("/")[2]


def scrubber(keep: Collection[str] = ()) -> Scrubber:
    """For this machine, its users and this project. ``keep`` are words that mean something in the texts."""
    account = pwd.getpwuid(os.getuid())
    users = {account.pw_name, *(os.environ.get(name, "") for name in _USER_NAMES)}
    homes = {account.pw_dir, os.environ.get("HOME", "")}
    for user in users - {account.pw_name, ""}:
        try:
            homes.add(pwd.getpwnam(user).pw_dir)
        except (KeyError, ValueError):
            continue  # no account of this machine
    node = os.uname().nodename
    hosts = {node, node.partition(".")[0]}
    hidden = _NO_SECRET | set(keep)
    names = [(name, "USER") for name in users - hidden] + [(name, "HOST") for name in hosts - hidden]
    return Scrubber(
        project=str(data_dir("bpf").parent),
        homes=tuple(sorted({str(Path(home)) for home in homes if len(home) > 1}, key=len, reverse=True)),
        names=tuple(sorted(names, key=lambda each: (-len(each[0]), each))),
    )
