"""KVM or emulation: what a probe boot proves.

A readable /dev/kvm proves nothing: within another machine QEMU may abort or hang with it, and a boot
sector may run where a kernel does not. So a kernel is booted, without a root file system: when it
complains of that, KVM works. The verdict is kept for as long as this machine is up.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from testbed.errors import errno_name
from testbed.guest.qemu import dying_with_us, qemu, qemu_version
from testbed.kernels.cache import side_dir

KVM = Path("/dev/kvm")
_DEADLINE_S = 10
_PROOF = "Kernel panic - not syncing: "  # no root file system: it has come that far
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Accelerator:
    """``name`` is ``kvm`` or ``tcg``; ``why`` one line for a person."""

    name: str
    why: str


def accelerator(image: Path) -> Accelerator:
    """What guests run by here; ``image`` is a kernel to probe with. `MachineError` without QEMU."""
    named = os.environ.get("TESTBED_ACCEL", "")
    if named in {"kvm", "tcg"}:
        return Accelerator(named, f"{named}, as TESTBED_ACCEL says")
    try:
        KVM.open("r+b", buffering=0).close()
    except OSError as error:
        return Accelerator("tcg", f"no KVM, guests are emulated ({KVM}: {errno_name(error.errno or 0)})")
    state = [_BOOT_ID.read_text(encoding="ascii").strip(), qemu_version(), str(os.geteuid())]
    kept = side_dir("accelerator") / "verdict.json"
    try:
        recorded = json.loads(kept.read_text(encoding="utf-8"))
        if recorded["state"] == state:
            return Accelerator(**recorded["verdict"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or not ours: the probe is quick
    verdict = _probe(image)
    draft = kept.with_name(f"{kept.name}.{os.getpid()}")
    draft.write_text(json.dumps({"state": state, "verdict": asdict(verdict)}), encoding="utf-8")
    draft.replace(kept)
    return verdict


def _probe(image: Path) -> Accelerator:
    words = [qemu(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "256"]
    words += ["-accel", "kvm", "-cpu", "host", "-machine", "q35", "-serial", "stdio", "-kernel", str(image)]
    words += ["-append", "console=ttyS0 panic=-1 quiet"]
    try:
        done = subprocess.run(
            dying_with_us(words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Accelerator(
            "tcg",
            f"no KVM, guests are emulated (with it, no kernel boots within {_DEADLINE_S} s)",
        )
    if _PROOF in done.stdout.decode(errors="replace"):
        return Accelerator("kvm", "KVM works")
    said = (
        done.stderr.decode(errors="replace").strip().splitlines() or [f"QEMU ended with {done.returncode}"]
    )[-1]
    return Accelerator("tcg", f"no KVM, guests are emulated ({said})")
