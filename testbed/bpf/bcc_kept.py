"""What bcc has compiled, kept in the user's cache: by all that it depends on, and only what has been loaded.

Compiling takes a third of a second, and one of several workers does it; the others wait for it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from testbed.acquired import acquired
from testbed.bpf.bytecode import SetCode
from testbed.bpf.elf.kept import kept_folder
from testbed.bpf.headers import Headers

_MOST = 16  # sets: those that somebody is at work on


def kept_path(text: str, flags: list[str], headers: Headers) -> Path | None:
    """Where the set of that text is kept, or would be; None where nothing can be, or there is no bcc.

    Its name has the text with the project's own headers in it, the compiler's words, bcc, the kernel, which
    bcc asks what there is, and the kernel headers by their state.
    """
    folder, spec = kept_folder(), importlib.util.find_spec("bcc")
    if folder is None or spec is None or spec.origin is None:
        return None
    compiler = Path(spec.origin)
    depends = (compiler, compiler.with_name("version.py"), headers.source / "include/uapi/linux/bpf.h")
    states = [(str(path), path.stat().st_mtime_ns) for path in depends if path.exists()]
    words = repr([text, flags, str(headers.source), states, tuple(os.uname())[2:]])
    return folder / f"{hashlib.sha256(words.encode()).hexdigest()[:32]}.bcc"


def kept_code(path: Path) -> SetCode | None:
    """What is kept there; None where there is nothing, or nothing of use."""
    try:
        code = SetCode.from_bytes(path.read_bytes())
        os.utime(path)
    except (OSError, ValueError):
        return None
    return code


def keep_code(path: Path, code: SetCode) -> None:
    """Keeps it where there is room: whole or not at all."""
    with suppress(OSError):
        path.unlink(missing_ok=True)  # one that was of no use
        with NamedTemporaryFile(dir=path.parent) as draft:
            draft.write(code.to_bytes())
            draft.flush()
            os.link(draft.name, path)
            acquired("kept file", path)
        there = sorted((each.stat().st_mtime_ns, each) for each in path.parent.glob("*.bcc"))
        for _, each in there[:-_MOST]:
            each.unlink(missing_ok=True)
