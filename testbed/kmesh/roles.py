"""The maps of a loaded set by their role in an era, each as the Python collection for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TypeVar

from testbed.bpf.maps import Map
from testbed.bpf.program_set import ProgramSet
from testbed.kmesh.abi import Absent
from testbed.kmesh.layouts import Layout
from testbed.kmesh.log_event import LogEvent
from testbed.kmesh.oracle.ledger import Ledger
from testbed.kmesh.profile import Profile, RecordSpec, Role
from testbed.kmesh.records import AccessRecord, AuthRequest, ObserveRecord
from testbed.kmesh.views import ManagedSet, SockhashKeys, StorageMap, Stream, VerdictMap

R = TypeVar("R")


class Roles:
    """What a set has, by role. `Absent` where the era or the set lacks it.

    Ring consumers close with ``stack``.
    """

    def __init__(self, program_set: ProgramSet, profile: Profile, ledger: Ledger, stack: ExitStack) -> None:
        self._set = program_set
        self._profile = profile
        self._ledger = ledger
        self.observed = self._open("observe", self._observe_decoder(), stack)
        self.auth_requests = self._open("auth_requests", self._auth_decoder(), stack)
        self.log = self._open("log", LogEvent.decode, stack)
        self.access_log = self._open("access_log", self._access_decoder(), stack)

    def map_of(self, role: Role) -> Map | None:
        """The map of a role, None where the era or the set has none."""
        name = self._profile.map_name(role)
        return self._set.maps.get(name) if name else None

    def require(self, role: Role) -> Map:
        """The map of a role. `Absent` says whether the era or the set lacks it."""
        self._profile.require(role)
        found = self.map_of(role)
        if found is None:
            name = self._profile.map_name(role)
            raise Absent(f"the set has no map {name}" if name else f"{self._profile.about} has no {role}")
        return found

    def _layout(self, spec: RecordSpec) -> Layout:
        """Worked out once for a set: a profile is the same as long as it is that object."""
        _, layout = self._set.notes.get(id(spec), (None, None))
        if not isinstance(layout, Layout):
            found = self._set.debug_structs(self._profile.records.structs)
            layout = Layout.of(spec, self._profile.about, found)
            self._set.notes[id(spec)] = (spec, layout)
        return layout

    def _observe_decoder(self) -> Callable[[bytes], ObserveRecord] | None:
        spec = self._profile.records.observe
        if spec is None or self.map_of("observe") is None:
            return None
        layout, ports = self._layout(spec), self._profile.ports.observe
        return lambda data: ObserveRecord.decode(data, layout, ports)

    def _access_decoder(self) -> Callable[[bytes], AccessRecord] | None:
        spec = self._profile.records.access_log
        if spec is None:
            return None
        layout, ports = self._layout(spec), self._profile.ports.observe
        return lambda data: AccessRecord.decode(data, layout, ports)

    def _auth_decoder(self) -> Callable[[bytes], AuthRequest]:
        layout, ports = self._layout(self._profile.records.auth_request), self._profile.ports.auth
        return lambda data: AuthRequest.decode(data, layout, ports)

    def _open(self, role: Role, decode: Callable[[bytes], R] | None, stack: ExitStack) -> Stream[R] | None:
        ring = self.map_of(role)
        if ring is None or decode is None:
            return None
        stream = Stream(ring, decode)
        stack.callback(stream.close)
        return stream

    def stream(self, role: Role, stream: Stream[R] | None) -> Stream[R]:
        """A ring's records. `Absent` where there is none."""
        self.require(role)
        assert stream is not None, f"the profile has a map for {role}, and no record"
        return stream

    def managed(self, cookies: Iterable[int]) -> ManagedSet:
        by_value = self._profile.managed.by == "value"
        managed = self.require("managed")
        return ManagedSet(managed, self._ledger, self._profile.about, by_value=by_value, cookies=cookies)

    @property
    def verdicts(self) -> VerdictMap:
        return VerdictMap(self.require("auth_results"), self._ledger, self._profile.ports.auth)

    @property
    def storage(self) -> StorageMap:
        found = self.require("storage")
        spec = self._profile.records.storage
        assert spec is not None, "the profile has a storage map, and no layout of its value"
        return StorageMap(found, self._ledger, self._layout(spec), self._profile.ports.storage)

    @property
    def sockhash(self) -> SockhashKeys:
        return SockhashKeys(self.require("sockhash"), self._ledger, self._profile.ports.sockhash)

    def clear(self) -> None:
        """Empties what tests look at: keys and records."""
        for role in ("managed", "auth_results", "sockhash", "original_destinations", "metrics"):
            found = self.map_of(role)
            if found is not None:
                found.clear()
        for stream in (self.observed, self.auth_requests, self.log, self.access_log):
            if stream is not None:
                stream.drop()
