"""Whether a kernel was built with what sockops programs need: told apart from programs that it rejects."""

from __future__ import annotations

import os
import struct
from ctypes import c_char_p, c_int, c_size_t, c_void_p

from testbed.bpf import libbpf
from testbed.bpf.features import kernel_btf
from testbed.bpf.kinds import ProgramKind
from testbed.errors import MachineError, errno_name
from testbed.kernel.cgroup import cgroup_root

_LOAD: libbpf.Signature = (
    "bpf_prog_load",
    c_int,
    (c_int, c_char_p, c_char_p, c_void_p, c_size_t, c_void_p),
)
_RETURN_1 = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 1, 0x95, 0, 0, 0)  # r0 = 1; exit


def missing_bpf() -> str:
    """What this kernel lacks, and the option that it is built with; empty when nothing is missing.

    By loading a sockops program that does nothing and attaching it to the root cgroup for an instant.
    """
    kind = ProgramKind.SOCKOPS
    program = libbpf.open_library([_LOAD]).bpf_prog_load(kind.prog_type, None, b"GPL", _RETURN_1, 2, None)
    if program < 0:
        return f"it loads no sockops program ({errno_name(program)}): CONFIG_BPF_SYSCALL=y is needed"
    try:
        with cgroup_root() as root:
            cgroup = os.open(root.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.close(libbpf.link_create(program, cgroup, kind.attach_type))
            finally:
                os.close(cgroup)
        kernel_btf()
    except OSError as error:
        why = errno_name(error.errno or 0)
        return f"it attaches no sockops program to a cgroup ({why}): CONFIG_CGROUP_BPF=y is needed"
    except MachineError as error:
        return str(error)
    finally:
        os.close(program)
    return ""
