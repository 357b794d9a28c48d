"""Snapshots: a guest that has everything imported, as files, restored in half a second.

A guest's memory is a file. While the snapshot is made the guest runs in it; restored guests have a
private copy, of which only the pages that they write cost memory. What is not memory (processor,
devices) is in the stream of a migration.

A snapshot is good for the same kernel, initramfs, QEMU, accelerator and size of memory, all of which
are in its name, and until this machine is booted anew: it is not forced to the disk.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qemu.qmp import EventListener, QMPClient, QMPError

from testbed.errors import MachineError
from testbed.guest.guest import Guest, GuestEnded
from testbed.guest.initramfs import archive_digest
from testbed.guest.pace import Pace
from testbed.guest.qemu import Machine, qemu_version
from testbed.kernels.cache import apply_cap, cache_dir, cache_error, locked, side_dir, used

_ROOM = "snapshots"
_RAM, _STATE, _FACTS = "ram", "state", "facts.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_DEADLINE_S = 60.0


@dataclass(frozen=True)
class Snapshot:
    """The name of a snapshot that there is, or can be. Of one ``slot`` the last is kept alone."""

    slot: str
    key: str

    @classmethod
    def of(cls, machine: Machine, purpose: str, content: str) -> Snapshot:
        """``purpose`` stands for the kernel and what guests are for; when it comes again with another
        ``content`` (the initramfs, what the guest has done until then), the old one is of no use.
        """
        slot = [purpose, machine.start, machine.accelerator, str(machine.memory)]
        boot = _BOOT_ID.read_text(encoding="ascii")
        return cls(archive_digest(slot)[:20], archive_digest([content, *slot, qemu_version(), boot])[:20])

    @property
    def folder(self) -> Path:
        """Where it is, when it is there."""
        return cache_dir(_ROOM) / f"{self.slot}-{self.key}"

    @property
    def exists(self) -> bool:
        """Whether a guest can be restored from it, as far as can be seen."""
        try:
            facts = json.loads((self.folder / _FACTS).read_text(encoding="utf-8"))
            return bool(facts["files"] == _as_written(self.folder))
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def restored(self, machine: Machine, prepare: Callable[[Guest], None]) -> Guest:
        """A guest that has been prepared: restored, from a snapshot that is made first if there is none.

        `GuestEnded` when it does not come that far; `MachineError` when the cache cannot be written.
        """
        with self._locked(shared=True):  # nobody removes it while QEMU opens it
            if (guest := self._tried(machine)) is not None:
                return guest
        with self._locked():
            guest = self._tried(machine)  # another process may have been faster
            if guest is None:
                self._make(machine, prepare)
                guest = self._restore(machine)
        apply_cap(spare_recent=True)
        return guest

    def _locked(self, *, shared: bool = False) -> AbstractContextManager[bool]:
        return locked(f"{_ROOM}-{self.slot}", shared=shared)

    def _tried(self, machine: Machine) -> Guest | None:
        """None when there is no snapshot, or a damaged one."""
        if not self.exists:
            return None
        try:
            return self._restore(machine)
        except (MachineError, GuestEnded, OSError, ValueError):
            return None

    def _restore(self, machine: Machine) -> Guest:
        """A guest that goes on where the snapshot was taken. `MachineError` without QEMU."""
        used(self.folder)
        with ExitStack() as stack:
            state = stack.enter_context((self.folder / _STATE).open("rb"))
            private = replace(machine, ram=self.folder / _RAM, shared=False)
            guest = stack.enter_context(Guest(private, incoming=state.fileno()))
            facts = json.loads((self.folder / _FACTS).read_text(encoding="utf-8"))
            guest.release, guest.pace = facts["release"], Pace(facts["scale"])
            _talk(_load(guest, state.fileno()), "restore the guest from its snapshot")
            state.close()
            stack.pop_all()
        return guest

    def _make(self, machine: Machine, prepare: Callable[[Guest], None]) -> None:
        """Boots a guest, lets it ``prepare``, and keeps it. The guest is gone afterwards."""
        _clean_drafts()
        draft = side_dir("drafts") / _ROOM / self.slot
        with ExitStack() as stack:
            shutil.rmtree(draft, ignore_errors=True)  # of a process that died: the lock is ours
            stack.callback(shutil.rmtree, draft, ignore_errors=True)
            try:
                draft.mkdir(parents=True)
                with Guest(replace(machine, ram=draft / _RAM, shared=True)) as guest:
                    prepare(guest)
                    _talk(_save(guest, draft / _STATE), "take a snapshot of the guest")
                facts = {"release": guest.release, "scale": guest.pace.scale, "files": _as_written(draft)}
                (draft / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
                for old in cache_dir(_ROOM).glob(f"{self.slot}-*"):
                    shutil.rmtree(old, ignore_errors=True)  # guests that run from it keep its memory
                draft.rename(self.folder)
            except OSError as error:
                raise cache_error(f"keep the snapshot in {self.folder}", error) from error


def _as_written(folder: Path) -> dict[str, list[int]]:
    """Sizes in bytes and times of change (ns), by which damage is seen: reading it all would take as long
    as to boot.
    """
    found = {name: (folder / name).stat() for name in (_RAM, _STATE)}
    return {name: [status.st_size, status.st_mtime_ns] for name, status in found.items()}


def _clean_drafts() -> None:
    """Removes the drafts of processes that died: whoever makes one holds the lock of its slot."""
    for draft in (side_dir("drafts") / _ROOM).glob("*"):
        with locked(f"{_ROOM}-{draft.name}", wait=False) as is_ours:
            if is_ours:
                shutil.rmtree(draft, ignore_errors=True)


def _talk(conversation: Coroutine[Any, Any, None], what: str) -> None:
    """Has a conversation with QEMU's monitor, within a deadline."""
    try:
        asyncio.run(asyncio.wait_for(conversation, _DEADLINE_S))
    except EOFError as error:
        raise MachineError(what, "QEMU ended in the middle") from error
    except TimeoutError as error:
        raise MachineError(what, f"no answer in {_DEADLINE_S:.0f} s") from error
    except (QMPError, OSError) as error:
        raise MachineError(what, str(error)) from error


@asynccontextmanager
async def _monitor(guest: Guest) -> AsyncIterator[QMPClient]:
    """QEMU's monitor, with migrations that leave out the memory that is a file, and tell how they go."""
    client = QMPClient("guest")
    await client.connect(guest.monitor.dup())
    try:
        capabilities = [{"capability": name, "state": True} for name in ("events", "x-ignore-shared")]
        await client.execute("migrate-set-capabilities", {"capabilities": capabilities})
        yield client
    finally:
        await client.disconnect()


async def _save(guest: Guest, path: Path) -> None:
    async with _monitor(guest) as client:
        with client.listener("MIGRATION") as events:
            await client.execute("stop")
            with path.open("wb") as state:
                client.send_fd_scm(state.fileno())
                await client.execute("getfd", {"fdname": "state"})
            await client.execute("migrate", {"uri": "fd:state"})
            await _completed(client, events)


async def _load(guest: Guest, fd: int) -> None:
    async with _monitor(guest) as client:
        with client.listener("MIGRATION") as events:
            await client.execute("migrate-incoming", {"uri": f"fd:{fd}"})
            await _completed(client, events)
        await client.execute("cont")  # it was stopped when it was saved


async def _completed(client: QMPClient, events: EventListener) -> None:
    async for event in events:
        data = event["data"]
        assert isinstance(data, dict), "an event of a migration tells its status"
        status = data["status"]
        if status == "completed":
            return
        if status == "failed":
            raise OSError(f"the migration failed: {await client.execute('query-migrate')}")
