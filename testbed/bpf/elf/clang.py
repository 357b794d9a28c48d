"""Compiles C sources to ELF objects with clang, for libbpf to load.

An object depends on its sources, on where they are and on clang, and on nothing else: not on the
directory that the build is started in, nor on the object's own name. Their place is kept, as the
line information names it: a verifier report quotes the source by it.
"""

from __future__ import annotations

import errno
import os
import platform
import signal
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from testbed.acquired import acquired
from testbed.bpf.diagnostics import compiler_digest
from testbed.errors import (
    MachineError,
    ProgramError,
    UsageError,
    errno_name,
    file_error,
    remedy,
    starting,
)
from testbed.logs import save_log

# a warning of older versions: the object could not be loaded
_NO_SUCH_FUNCTION = "-Werror=implicit-function-declaration"
_FLAGS = ("-target", "bpf", "-O2", "-g", "-Wall", "-Wextra", _NO_SUCH_FUNCTION)
_AT_ONCE = 4
_PACKAGES = {
    "'bpf/bpf_helpers.h' file not found": "libbpf-dev",
    "'linux/bpf.h' file not found": "linux-libc-dev",
    "'asm/types.h' file not found": "linux-libc-dev",
}


def compile_object(source: Path, include: Sequence[Path], output: Path, defines: Sequence[str] = ()) -> None:
    """Compiles one source to an object; ``include`` are directories, ``defines`` like ``NAME=1``.

    ``output`` appears when it is whole, in place of an older one. `ProgramError` when the source
    does not compile, `MachineError` without clang, `UsageError` when ``output`` cannot be written.
    Warnings are in the log of a source that does not compile, and told nowhere else.
    """
    _write(output, _compiled(source, include, defines))


def compile_objects(
    sources: Sequence[Path], include: Sequence[Path], folder: Path, defines: Sequence[str] = ()
) -> list[Path]:
    """Compiles sources side by side; returns ``x.o`` in ``folder`` for each ``x.c``, in their order.

    All or none: nothing is written, and ``folder`` is not made, unless every source compiles.
    Errors as `compile_object`, of the first source that has one.
    """
    outputs = [folder / f"{source.stem}.o" for source in sources]
    if len(set(outputs)) < len(outputs):
        names = ", ".join(str(source) for source in sources)
        raise UsageError(f"compile {names}", f"two of them would be one object in {folder}")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        compiled = list(pool.map(partial(_compiled, include=include, defines=defines), sources))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise file_error(f"make the directory {folder}", error) from error
    for output, data in zip(outputs, compiled, strict=True):
        _write(output, data)
    return outputs


def compile_command(source: Path, include: Sequence[Path], defines: Sequence[str]) -> list[str]:
    """clang's words, which end with ``-c SOURCE -o -``."""
    place = source.parent.resolve()
    # for BPF, clang does not look where a distribution keeps what differs by architecture (asm/)
    of_architecture = f"/usr/include/{platform.machine()}-linux-gnu"
    return [
        "clang",
        *_FLAGS,
        *(f"-D{define}" for define in defines),
        *(f"-I{directory.resolve()}" for directory in include),
        *("-idirafter", of_architecture),
        # else the current directory is in the debug information
        *("-fdebug-compilation-dir", str(place)),
        *("-c", str(place / source.name), "-o", "-"),
    ]


def _compiled(source: Path, include: Sequence[Path], defines: Sequence[str]) -> bytes:
    command = compile_command(source, include, defines)
    try:
        with starting("clang"):
            done = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        raise MachineError("find clang", errno_name(error.errno or 0), "apt-get install clang") from error
    if done.returncode == -signal.SIGKILL:
        why = "somebody killed clang (SIGKILL); is there memory left?"
        raise MachineError(f"compile {source.name}", why, remedy(errno.ENOMEM))
    if done.returncode:
        raise _failure(source, done.stderr.decode(errors="backslashreplace"))
    return done.stdout


def _failure(source: Path, output: str) -> ProgramError | MachineError:
    what, digest = f"compile {source.name}", compiler_digest(output)
    if digest.reason in _PACKAGES:
        return MachineError(what, digest.reason, f"apt-get install {_PACKAGES[digest.reason]}", digest.lines)
    mend = "mend that line; " if digest.lines else ""
    log = save_log(f"compile-{source.stem}", output)
    return ProgramError(what, digest.reason, f"{mend}all of the output is in {log}", digest.lines)


def _write(output: Path, data: bytes) -> None:
    draft = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with ExitStack() as stack:
            file = stack.enter_context(draft.open("wb"))
            acquired("file", draft)
            stack.callback(draft.unlink, missing_ok=True)
            file.write(data)
            file.flush()
            draft.replace(output)
    except OSError as error:
        raise file_error(f"write {output}", error) from error
