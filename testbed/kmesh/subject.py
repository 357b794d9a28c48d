"""What is under test: a loaded set, its ABI profile, and words for what it has and leaves out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.bpf.elf.info import ObjectInfo
from testbed.bpf.elf.loader import LoadOptions, ObjectLoader
from testbed.bpf.elf.program_sets import load_objects
from testbed.bpf.kinds import ProgramKind, Target
from testbed.bpf.program_set import ProgramSet
from testbed.closing import Closing
from testbed.errors import ProgramError
from testbed.kmesh.layouts import Layout
from testbed.kmesh.profile import Profile, load_profile
from testbed.kmesh.recognise import missing_facts, recognise
from testbed.logs import save_log

_UNTESTED = {
    ProgramKind.CONNECT4: "no connect4 program: the test makes the storage of IPv4 clients in its place",
    ProgramKind.CONNECT6: "no connect6 program: the test makes the storage of IPv6 clients in its place",
    ProgramKind.SK_MSG: "no sk_msg program: nothing writes metadata ahead of the payload",
}


@dataclass
class Subject(Closing):
    """A loaded set with its profile. ``era`` is in a person's words how the profile was found."""

    program_set: ProgramSet
    profile: Profile
    objects: tuple[ObjectInfo, ...]
    era: str

    def close(self) -> None:
        self.program_set.close()

    def lines(self) -> Iterator[tuple[str, str]]:
        """What the set contains and what that leaves untested: (heading, words)."""
        failures = self.program_set.failures
        for info in self.objects:
            rejected = {failure.name.partition("#")[0] for failure in failures if failure.path == info.path}
            names = [
                f"{program.name} (rejected)" if program.name in rejected else program.name
                for program in info.programs
            ]
            yield "object", f"{info.path}: {', '.join(names) or 'no program'}"
        yield "era", self.era
        if len(sockops := self.program_set.of_kind(ProgramKind.SOCKOPS)) > 1:
            yield (
                "note",
                f"{len(sockops)} sockops programs are attached: each does what the contract says once",
            )
        for failure in failures:
            log = save_log(f"verifier-{failure.name}", failure.log)
            yield "rejected", f"{failure.name} ({failure.section}): {failure.reason}; log: {log}"
        for words in self._layouts():
            yield "layout", words
        for name in self.program_set.assumed:
            yield "assumed", f"the maps in {name} are arrays of one 4-byte value (--inner-map says otherwise)"
        for kind, words in _UNTESTED.items():
            if not self.program_set.of_kind(kind) and self._expects(kind):
                yield "untested", words
        for program in self.program_set.programs.values():
            if program.kind is None or program.kind.target is Target.INTERFACE:
                yield "untested", f"{program.name} ({program.section}): loaded, attached to nothing"
        for what, reason in self.profile.lacks.items():
            yield "era lacks", f"{what}: {reason}"

    def _layouts(self) -> Iterator[str]:
        """Where the object's own records are not as the profile says."""
        records = self.profile.records
        for role, spec in (("observe", records.observe), ("auth_requests", records.auth_request)):
            if spec is not None:
                layout = Layout.of(spec, "", self.program_set.debug_structs(records.structs))
                if differences := layout.differences(spec):
                    yield f"{role} records, by the object's debug information: {', '.join(differences)}"

    def _expects(self, kind: ProgramKind) -> bool:
        return "storage" not in self.profile.lacks or kind is ProgramKind.SK_MSG


def load_subject(
    loader: ObjectLoader, paths: Sequence[Path], abi: str = "", options: LoadOptions | None = None
) -> Subject:
    """Recognises and loads a set. `UsageError` when no era fits, `ProgramError` without sockops program."""
    objects = tuple(loader.open(paths))
    if abi:
        profile = load_profile(abi)
        era = f"{profile.era} ({profile.about}), as asked for"
        if missing := missing_facts(profile, objects):
            era += f"; the set does not have: {'; '.join(missing)}"
    else:
        recognised = recognise(objects)
        profile, era = recognised.profile, str(recognised)
    loaded = load_objects(loader, paths, options)
    if not loaded.of_kind(ProgramKind.SOCKOPS):
        loaded.close()
        raise _without_sockops(loaded)
    return Subject(loaded, profile, objects, era)


def _without_sockops(loaded: ProgramSet) -> ProgramError:
    what = f"check {loaded.origin}"
    for failure in loaded.failures:
        if failure.section == ProgramKind.SOCKOPS.section:
            return failure.error()
    return ProgramError(what, "there is no sockops program in it, which the contract is about")
