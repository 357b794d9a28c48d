"""apt with sources, lists and state of its own, in the cache: the system's apt is only read.

apt checks the archive's signatures, resumes downloads and knows the machine's proxies; its messages go to
a log, and what a person needs of them into one line.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import MachineError, command
from testbed.kernels.cache import cache_error, side_dir
from testbed.kernels.progress import Progress
from testbed.logs import save_log

HELPER = Path("/usr/lib/apt/apt-helper")
# What the machine's apt says of the network is ours too; the rest of its configuration (hooks, what it
# keeps, whom it runs as) is not.
_OURS = re.compile(r"Acquire::(http|https|ftp|Proxy|Check-Valid-Until|Max-ValidTime|ForceIPv|Queue)")
_CONFIG = """\
Dir "{home}";
Dir::Etc::sourcelist "{home}/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::main "{home}/none";
Dir::Etc::parts "{home}/empty";
Dir::Etc::netrc "/etc/apt/auth.conf";
Dir::Etc::netrcparts "/etc/apt/auth.conf.d";
Dir::State "{home}";
Dir::State::lists "{home}/lists";
Dir::State::status "{home}/status";
Dir::Cache "{home}";
Dir::Cache::archives "{home}/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Log "{home}";
Dir::Bin::methods "/usr/lib/apt/methods";
Dir::Bin::solvers "{home}/empty";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "root";
APT::Get::List-Cleanup "true";
Acquire::Languages "none";
Acquire::PDiffs "false";
Acquire::GzipIndexes "true";
Acquire::Retries "0";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::CNF::DefaultEnabled "false";
"""


class Unreachable(MachineError):
    """No network, or no archive at that address."""


class Gone(MachineError):
    """The archive answers, but no longer has what its lists named."""


@dataclass(frozen=True)
class _Reason:
    """What apt says, what that means, and what to do."""

    said: str
    why: str
    fix: str
    error: type[MachineError] = MachineError


# The first whose words are found is told.
_REASONS = (
    _Reason(r"No space left on device", "the disk is full", "{prune}, free some space, or set TESTBED_CACHE"),
    _Reason(
        r"NO_PUBKEY|Missing key|no public key",
        "the archive is signed by a key that the keyring does not have",
        "bring the keyring up to date (apt-get install debian-archive-keyring), or name the right one in "
        "TESTBED_DEBIAN_KEYRING",
    ),
    _Reason(
        r"BADSIG|invalid signature|signatures? (?:were|was|are) invalid|Clearsigned file isn't valid|"
        r"is not signed|NODATA|Bad signature|[Vv]erification failed",
        "the archive's signature is bad, so nothing that it lists is trusted",
        "it, or a proxy on the way, altered the lists: try again, or another archive (--archive URL)",
    ),
    _Reason(
        r"Hash Sum mismatch|unexpected size",
        "what came is not what the signed lists say",
        "try again later (a mirror that is being updated), or another archive (--archive URL)",
    ),
    _Reason(
        r"Could not resolve|Temporary failure resolving|Could not connect|Connection refused|"
        r"Unable to connect|Network is unreachable|[Cc]onnection timed out|Connection failed|"
        r"No route to host|Cannot initiate the connection|Connection timeout",
        "the archive cannot be reached",
        "see to the network; what `{list}` shows as cached works without",
        Unreachable,
    ),
    _Reason(
        r"\b404\b|File not found|does not have a Release file",
        "the archive does not have it",
        "refresh the lists: {list} --refresh",
        Gone,
    ),
)
_FAILURE = re.compile(r"E: |Err:|W: .*(?:Failed to fetch|error occurred)")
_STATUS = re.compile(r"dlstatus:\d+:([\d.]+):")


@dataclass(frozen=True)
class Source:
    """A suite of an archive, and the keyring that its signature is checked by."""

    url: str
    suite: str
    keyring: Path

    def line(self) -> str:
        # check-valid-until: lists of a suite whose support has ended are never signed again. An old list
        # can hide a newer kernel, and `kernels list` says how old it is; it cannot bring in another's.
        return f"deb [check-valid-until=no signed-by={self.keyring}] {self.url} {self.suite} main"


@dataclass(frozen=True)
class AptRun:
    """What apt said."""

    code: int
    text: str

    @property
    def failures(self) -> list[str]:
        """Its errors, and the warnings that are about failures, one a line; ``Err:`` with its reason."""
        joined = re.sub(r"^(Err:.*)\n\s+", r"\1: ", self.text, flags=re.MULTILINE)
        return [line for line in joined.splitlines() if _FAILURE.match(line)]


def need_apt(what: str) -> None:
    """`MachineError` on a machine without apt."""
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None or not HELPER.is_file():
            raise MachineError(
                what,
                f"{program} is not here, and the kernels of Debian's archive come by it",
                "give a kernel of your own (bzImage or build tree), or use a Debian or Ubuntu machine",
            )


def write_config(architecture: str, sources: Sequence[Source]) -> Path:
    """Writes our apt's configuration and sources; returns the configuration's path."""
    home = side_dir("apt")
    try:
        for name in ("lists/partial", "archives/partial", "empty"):
            (home / name).mkdir(parents=True, exist_ok=True)
        (home / "status").touch()
        text = "".join(f"{line}\n" for line in _inherited())
        config = home / "apt.conf"
        _write(config, text + _CONFIG.format(home=home, architecture=architecture))
        _write(home / "sources.list", "".join(f"{source.line()}\n" for source in sources))
    except OSError as error:
        raise cache_error(f"write to {home}", error) from error
    return config


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _inherited() -> Iterator[str]:
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False)  # noqa: S607
    return (line for line in dump.stdout.splitlines() if _OURS.match(line))


def run_apt(
    arguments: Sequence[str | Path], config: Path, progress: Progress, what: str, total: int = 0
) -> AptRun:
    """Runs apt-get or apt-helper by that configuration, telling ``progress``; its words are the result's."""
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as output, os.fdopen(reading, "rb") as status:
        progress.step(what, 0, total)
        try:
            process = subprocess.Popen(
                [*map(str, arguments), "-q", "-o", f"APT::Status-Fd={writing}"],
                env=_environment(config),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(writing,),
                start_new_session=True,
            )
        finally:
            os.close(writing)
        with _ended(process):
            for line in status:
                match = _STATUS.match(line.decode("utf-8", "replace"))
                if match is not None:
                    progress.step(what, max(int(float(match[1]) * total / 100), 1), total)
            code = process.wait()
        output.seek(0)
        return AptRun(code, output.read().decode("utf-8", "replace"))


def _environment(config: Path) -> Mapping[str, str]:
    return {**os.environ, "APT_CONFIG": str(config), "LC_ALL": "C"}


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """apt does not outlive an interruption of ours.

    The signal is for its group: the http method then gives what came the archive's time, without which
    it would not be resumed but fetched anew.
    """
    try:
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def query(arguments: Sequence[str], config: Path | None = None) -> list[str]:
    """The lines of an apt command that only tells; none where it fails."""
    environment = None if config is None else _environment(config)
    done = subprocess.run(list(arguments), capture_output=True, text=True, check=False, env=environment)
    return done.stdout.splitlines() if done.returncode == 0 else []


def explain(what: str, run: AptRun, where: str) -> MachineError:
    """One line for what apt said, and the log with all of it."""
    log = f"all that apt said: {save_log('apt', run.text)}"
    for reason in _REASONS:
        line = next((each for each in run.failures if re.search(reason.said, each)), None)
        if line is not None:
            fix = reason.fix.format(prune=command("kernels prune"), list=command("kernels list"))
            return reason.error(what, f"{reason.why} ({where})", fix, f"{line}\n{log}")
    first = next(iter(run.failures), f"it ended with {run.code} and said nothing")
    return MachineError(what, f"apt failed ({where})", "", f"{first}\n{log}")
