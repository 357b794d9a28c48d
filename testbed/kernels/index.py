"""What the archive offers: the kernels in apt's lists, in a small file that is quick to read."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from testbed.errors import MachineError
from testbed.kernels.apt import HELPER, Source
from testbed.kernels.cache import cache_dir
from testbed.kernels.versions import series, upstream, version_key

FORMAT = 6
_DAY = 86400.0
ROOM = "kernels"
_LAYOUT = b"2"  # of an entry of the cache: another one has other names
# dpkg's name of an architecture, and the flavours of its kernels, the one to prefer first: cloud kernels
# are a third of the plain ones' size and have all that a guest needs.
ARCHITECTURES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "x86_64": ("amd64", ("cloud-amd64", "amd64", "generic")),
    "aarch64": ("arm64", ("cloud-arm64", "arm64", "generic")),
}
_FIRST = b"Package: linux-"
_NEEDED = {"Package", "Version", "Filename", "Size", "SHA256"}
_KERNEL = re.compile(r"linux-(?:image|binary|modules|base)-(?:unsigned-)?\d")
_FIELD = re.compile(rb"^(Package|Version|Depends|Filename|Size|SHA256): ([^\n]*)$", re.MULTILINE)
_RELEASE = re.compile(r"linux-image-(?:unsigned-)?(\d.*)")


@dataclass(frozen=True)
class Package:
    """A .deb: where it is, its size in bytes and the SHA-256 that the signed lists give."""

    name: str
    url: str
    size: int
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Offer:
    """A kernel that can be fetched. ``missing`` are its packages that are not in the archive any more."""

    version: str
    release: str
    suite: str
    packages: tuple[Package, ...]
    missing: tuple[str, ...] = ()

    @property
    def series(self) -> str:
        return series(self.version)

    @property
    def upstream(self) -> str:
        return upstream(self.version)

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(package.size for package in self.packages)

    @property
    def entry(self) -> Path:
        """Where it is in the cache, if it is: by the content of what is downloaded."""
        digest = hashlib.sha256(_LAYOUT)
        for package in self.packages:
            digest.update(bytes.fromhex(package.sha256))
        return cache_dir(ROOM) / digest.hexdigest()

    @property
    def is_cached(self) -> bool:
        return self.entry.is_dir()


@dataclass(frozen=True)
class Index:
    """Offers, oldest first, one for a version. ``read`` is when the lists were had (seconds since 1970)."""

    read: float
    offers: tuple[Offer, ...]

    @property
    def complete(self) -> tuple[Offer, ...]:
        return tuple(offer for offer in self.offers if not offer.missing)

    def with_cached(self, old: Index) -> Index:
        """With those of an older index that are in the cache, though the archive has them no longer."""
        known = {offer.version for offer in self.offers}
        kept = [offer for offer in old.offers if offer.version not in known and offer.is_cached]
        offers = sorted((*self.offers, *kept), key=lambda offer: version_key(offer.version))
        return replace(self, offers=tuple(offers))

    @property
    def is_old(self) -> bool:
        """Whether the lists are due to be fetched again."""
        return time.time() - self.read >= _DAY

    @property
    def age(self) -> str:
        """In words."""
        hours = max(time.time() - self.read, 0) / 3600
        return f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.0f} hours" if hours >= 2 else "an hour"


@dataclass(frozen=True)
class _Stanza:
    name: str
    source: Source
    fields: Mapping[str, str]

    def package(self) -> Package:
        fields = self.fields
        url = f"{self.source.url.rstrip('/')}/{fields['Filename']}"
        return Package(self.name, url, int(fields["Size"]), fields["SHA256"])


def read_lists(lists: Iterable[tuple[Source, Path]], machine: str) -> tuple[Offer, ...]:
    """The kernels in apt's lists for that architecture (as ``uname -m`` says it), oldest first."""
    flavours = ARCHITECTURES[machine][1]
    known: dict[tuple[str, str], _Stanza] = {}
    for source, path in lists:
        for stanza in _stanzas(source, path):
            known.setdefault((stanza.name, stanza.fields["Version"]), stanza)
    offers: dict[str, tuple[tuple[int, ...], Offer]] = {}
    for (name, version), stanza in known.items():
        match = _RELEASE.fullmatch(name)
        rank = _rank(match[1], flavours) if match else None
        if match is None or rank is None or "linux-image-" in stanza.fields.get("Depends", ""):
            continue  # what depends on an image only points to the newest
        offer = _offer(match[1], stanza, known)
        order = (len(offer.missing), rank)
        if version not in offers or order < offers[version][0]:
            offers[version] = (order, offer)
    return tuple(sorted((offer for _, offer in offers.values()), key=lambda each: version_key(each.version)))


def _rank(release: str, flavours: Sequence[str]) -> int | None:
    # "cloud-amd64" ends in "amd64" too: what is before the flavour must end in the version's own digits
    for rank, flavour in enumerate(flavours):
        front = release.removesuffix(f"-{flavour}")
        if front != release and re.search(r"\.", front) and re.fullmatch(r"[\d.~+a-z-]*\d", front):
            return rank
    return None


def _offer(release: str, image: _Stanza, known: Mapping[tuple[str, str], _Stanza]) -> Offer:
    """The image's package with those of the same release that it depends on (since 6.19 it is split)."""
    version = image.fields["Version"]
    names = re.findall(r"(?:^|,\s*)(linux-[^\s,|]+)", image.fields.get("Depends", ""))
    others = [name for name in dict.fromkeys(names) if name.endswith(f"-{release}")]
    found = [known[name, version] for name in others if (name, version) in known]
    # linux-base-* adds documents alone, or modules.builtin and the configuration: nothing fails without
    missing = tuple(
        name for name in others if (name, version) not in known and not name.startswith("linux-base-")
    )
    is_split = any(each.name.startswith("linux-binary-") for each in found)  # its own package is empty
    parts = (
        found if is_split else [image, *(each for each in found if not each.name.startswith("linux-base-"))]
    )
    return Offer(version, release, image.source.suite, tuple(each.package() for each in parts), missing)


def _stanzas(source: Source, path: Path) -> Iterator[_Stanza]:
    done = subprocess.run([HELPER, "cat-file", path], capture_output=True, check=False)
    if done.returncode:
        raise MachineError(f"read apt's list {path}", done.stderr.decode("utf-8", "replace").strip())
    data = done.stdout  # tens of MB: find() is ten times quicker than a pattern over all of it
    at = data.find(_FIRST)
    while at >= 0:
        end = data.find(b"\n\n", at)
        stanza = data[at : end if end >= 0 else len(data)]
        fields = {key.decode(): value.decode() for key, value in _FIELD.findall(stanza)}
        if fields.keys() >= _NEEDED and _KERNEL.match(fields["Package"]):
            yield _Stanza(fields["Package"], source, fields)
        at = data.find(_FIRST, at + len(_FIRST))


def save_index(path: Path, index: Index) -> None:
    text = json.dumps({"format": FORMAT, **asdict(index)})
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def load_index(path: Path) -> Index | None:
    """None where there is none that this version of the testbed wrote."""
    try:
        data = json.loads(path.read_bytes())
        if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
            return None
        return TypeAdapter(Index).validate_python(data)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):  # cut short, or changed by somebody: it is made anew
        return None
