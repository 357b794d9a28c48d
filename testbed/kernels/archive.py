"""The archive: where it is, its suites with kernels, and the index of them, kept fresh."""

from __future__ import annotations

import glob
import hashlib
import os
import platform
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from testbed.errors import MachineError, UsageError
from testbed.kernels import apt
from testbed.kernels.apt import Source
from testbed.kernels.cache import WRITING, locked, side_dir
from testbed.kernels.index import ARCHITECTURES, Index, load_index, read_lists, save_index
from testbed.kernels.progress import Progress

_TRY_AGAIN = 600.0  # after a refresh that failed
_TARGETS = ("$(SITE)", "$(RELEASE)", "$(COMPONENT)", "$(ORIGIN)")
# Debian's, from 5.10 on. The earlier is said to have what several have. One that does not exist (yet,
# any more) is passed over.
_SUITES = (
    *("bullseye", "bookworm", "bookworm-backports", "trixie", "trixie-backports"),
    *("forky", "forky-backports", "sid", "experimental"),
)
_SECURITY = ("bullseye-security", "bookworm-security", "trixie-security", "forky-security")
_KEYRINGS = {
    "debian": ("debian-archive-keyring", Path("/usr/share/keyrings/debian-archive-keyring.gpg")),
    "ubuntu": ("ubuntu-keyring", Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg")),
}
# A suite that there is not (any more); lists that are missing in one that there is are another matter.
_ABSENT = re.compile(
    r"^Err:\d+ \S+ \S+ Release: .*(?:404|not found)|(?:does not have|no longer has) a Release file"
)
_GONE = re.compile(r"'(\S+) (\S+) Release' no longer has")


@dataclass(frozen=True)
class _Target:
    site: str
    suite: str
    component: str
    origin: str


def machine() -> str:
    """This machine's architecture, as ``uname -m``. `MachineError` for one without kernels here."""
    name = platform.machine()
    if name not in ARCHITECTURES:
        raise MachineError("find kernels", f"{name} is none of {', '.join(ARCHITECTURES)}")
    return name


def sources(archive: str = "") -> list[Source]:
    """The suites to ask. ``archive`` is one or two addresses, of Debian's archive and its security archive;
    without, they are taken from the machine's own apt.
    """
    apt.need_apt("find kernels")
    if archive:
        main, _, security = archive.partition(" ")
        if not re.match(r"[a-z+]+:", main):
            fix = "give an address as in sources.list: https://HOST/debian, file:/srv/debian"
            raise UsageError("use --archive", f"{main!r} is no address", fix)
        return _debian(main.rstrip("/"), security.strip().rstrip("/"))
    targets = list(_targets())
    for origin, of_origin in (("debian", _debian_sources), ("ubuntu", _ubuntu_sources)):
        found = of_origin([target for target in targets if _is_of(target, origin)])
        if found:
            return found
    raise MachineError(
        "find kernels",
        "this machine's apt names no archive of Debian's or Ubuntu's",
        "name one: --archive URL, or TESTBED_DEBIAN_ARCHIVE",
    )


def _targets() -> Iterator[_Target]:
    for line in apt.query(["apt-get", "indextargets", "--format", "|".join(_TARGETS)]):
        words = line.split("|")
        if len(words) == len(_TARGETS):
            yield _Target(*words)


def _is_of(target: _Target, origin: str) -> bool:
    if target.component != "main":
        return False
    if target.origin.startswith("$("):  # its lists were never fetched, or removed
        release = platform.freedesktop_os_release()
        own = release.get("VERSION_CODENAME", "?")
        return release.get("ID") == origin and target.suite.startswith(own)
    return target.origin.lower() == origin


def _debian_sources(targets: Sequence[_Target]) -> list[Source]:
    security = [target.site for target in targets if target.suite.endswith("-security")]
    main = [target.site for target in targets if not target.suite.endswith("-security")]
    return _debian(main[0], security[0] if security else "") if main else []


def _debian(main: str, security: str) -> list[Source]:
    keyring = _keyring("debian")
    found = [Source(main, suite, keyring) for suite in _SUITES]
    return found + [Source(security or f"{main}-security", suite, keyring) for suite in _SECURITY]


def _ubuntu_sources(targets: Sequence[_Target]) -> list[Source]:
    keyring = _keyring("ubuntu") if targets else Path()
    return [Source(target.site, target.suite, keyring) for target in dict.fromkeys(targets)]


def _keyring(origin: str) -> Path:
    package, path = _KEYRINGS[origin]
    named = os.environ.get("TESTBED_DEBIAN_KEYRING") if origin == "debian" else None
    if named:
        path = Path(named).absolute()
    if not path.is_file():
        fix = "name a file that is there" if named else f"apt-get install {package}"
        raise MachineError("check the archive's signature", f"there is no keyring {path}", fix)
    return path


def get_index(progress: Progress, *, archive: str | None = None, refresh: bool = False) -> Index:
    """What the archive offers. Lists older than a day are fetched again, or at once on ``refresh``.

    Without a network what was had before is used, and that is said.
    """
    archive = archive or os.environ.get("TESTBED_DEBIAN_ARCHIVE", "")
    # the machine's own apt is asked (0.4 s) only for a new index: its sources seldom change
    key = f"{machine()} {archive} {os.environ.get('TESTBED_DEBIAN_KEYRING', '')}"
    path = side_dir("apt") / f"index-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    index = load_index(path)
    if index is not None and not refresh and not index.is_old:
        return index
    tried = path.with_suffix(".tried")
    if index is not None and not refresh and _is_recent(tried):
        progress.say(f"the lists of kernels are {index.age} old")
        return index
    with locked(WRITING, shared=True), locked("lists"):
        newer = load_index(path)
        if newer is not None and (index is None or newer.read > index.read):
            return newer  # another process was faster
        try:
            old, index = index, _refresh(sources(archive), progress)
        except apt.Unreachable as error:
            tried.touch()
            if index is None or refresh:
                raise
            progress.say(f"{error.why}: the lists of kernels are {index.age} old")
            return index
        if old is not None:
            index = index.with_cached(old)
        save_index(path, index)
    return index


def _is_recent(path: Path) -> bool:
    return path.is_file() and time.time() - path.stat().st_mtime < _TRY_AGAIN


def _refresh(wanted: Sequence[Source], progress: Progress) -> Index:
    config = apt.write_config(ARCHITECTURES[machine()][0], wanted)
    where = ", ".join(dict.fromkeys(source.url for source in wanted))
    # apt's own cache of the lists is not needed, and takes longer to make than the lists to fetch
    words = ["apt-get", "update", "-o", "pkgCacheFile::Generate=false"]
    run = apt.run_apt(words, config, progress, "the lists of kernels")
    broken = [line for line in run.failures if not _ABSENT.search(line)]
    if broken:
        raise apt.explain("refresh the lists of kernels", replace(run, text="\n".join(broken)), where)
    gone = {match.groups() for match in _GONE.finditer(run.text)}  # whose old lists apt keeps
    there = [source for source in wanted if (source.url, source.suite) not in gone]
    offers = read_lists(_lists(there, config), machine())
    if not offers:
        raise MachineError(
            "refresh the lists of kernels",
            f"there are no kernels in {where}",
            "name an archive of Debian's: --archive URL",
        )
    return Index(time.time(), offers)


def _lists(wanted: Sequence[Source], config: Path) -> Iterator[tuple[Source, Path]]:
    """apt's files of lists. By name: apt-get indextargets would read all of them first, for seconds."""
    here = config.parent / "lists"
    architecture = ARCHITECTURES[machine()][0]
    for source in wanted:
        name = f"{source.url}/dists/{source.suite}/main/binary-{architecture}/Packages"
        for path in sorted(here.glob(f"{glob.escape(_file_name(name))}*")):
            yield source, path


def _file_name(address: str) -> str:
    # apt's URItoFileName: without scheme and user, quoted, "/" as "_"
    bare = re.sub(r"^[a-z+]+:(//([^/]*@)?)?", "", address)
    quoted = re.sub(r"[\\|{}\[\]<>\"^~_=!@#$%&*]", lambda match: f"%{ord(match[0]):02x}", bare)
    return quoted.replace("/", "_")
