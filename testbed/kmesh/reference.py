"""The reference program set: the sources in ``bpf/``, loaded with bcc."""

from __future__ import annotations

from testbed.bpf.bcc_loader import SourceSet, load
from testbed.bpf.kinds import ProgramKind
from testbed.bpf.program_set import ProgramSet
from testbed.data import data_dir
from testbed.kmesh.abi import MAIN
from testbed.kmesh.config import Config


def reference_sources() -> SourceSet:
    """The sources as they are now: edit them, run again."""
    bpf = data_dir("bpf")
    return SourceSet(
        name="reference",
        sources=(bpf / "sockops.c", bpf / "connect.c", bpf / "sendmsg.c"),
        include=(bpf / "include",),
        programs=(
            ("sockops_prog", ProgramKind.SOCKOPS),
            ("connect4_prog", ProgramKind.CONNECT4),
            ("connect6_prog", ProgramKind.CONNECT6),
            ("sendmsg_prog", ProgramKind.SK_MSG),
        ),
        maps=(
            MAIN.managed,
            MAIN.storage,
            MAIN.sockhash,
            MAIN.auth_requests,
            MAIN.auth_results,
            MAIN.observe,
            MAIN.log,
        ),
        globals_map="globals",
    )


def load_reference() -> ProgramSet:
    """Compiles and loads the reference. `ProgramError` when it does not compile or is rejected."""
    loaded = load(reference_sources())
    Config(loaded.variables).reset()  # bcc has no initialised variables: an object has these from the start
    return loaded
