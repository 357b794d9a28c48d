"""Where the command starts. An error reaches a person as one message, never as a traceback."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from testbed.ending import Ending

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_INTERRUPTED = "testbed: interrupted\n"
_MEMORY = 40 << 20  # bytes of address space that its modules take
_NOT_LOADED = (
    "testbed: cannot load its own modules: {}\n"
    "  → install it again where one is missing; else raise `ulimit -n` (open files) or `ulimit -v` (memory)\n"
)


def main() -> None:
    """Runs the command line and exits with its code; 128 and the signal where one has ended it."""
    numbers = [
        number
        for number in _SIGNALS
        if signal.getsignal(number) in {signal.SIG_DFL, signal.default_int_handler}
    ]
    for number in numbers:
        signal.signal(number, _nothing_begun)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)  # who started us may have held them back until now
    try:
        mmap.mmap(-1, _MEMORY, mmap.MAP_PRIVATE).close()  # with less some modules do not raise but abort
        from testbed.cli import app
        from testbed.ending import Ending
    except (ImportError, OSError, MemoryError) as error:  # maybe even of the module that has the words for it
        code = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
        why = f"{errno.errorcode[code]} ({os.strerror(code)})" if code else str(error)
        _say(_NOT_LOADED.format(why))
        sys.exit(3)

    ending = Ending()
    try:
        for number in numbers:
            signal.signal(number, ending)
        code = _run(app, ending)
        ending.is_over = True
    except KeyboardInterrupt:  # at the very end, or within what follows
        code = ending.code
        _say(_INTERRUPTED)
    sys.exit(ending.code if ending.first not in {0, signal.SIGINT} else code)


def _nothing_begun(number: int, _frame: object) -> NoReturn:
    """Nothing is to be undone yet; and the importer would show an exception, and go on."""
    os.write(2, _INTERRUPTED.encode())
    os._exit(128 + number)


def _run(app: object, ending: Ending) -> str | int | None:
    """The exit code, or what else there is to exit with."""
    from testbed.errors import ExitCode, TestbedError

    _prepare_output()
    try:
        app()  # type: ignore[operator]
    except SystemExit as decided:
        if not _is_unsaid(decided):
            return decided.code
    except TestbedError as error:
        if not ending.first:
            _say(f"testbed: cannot {error}\n")
            return error.exit_code
    except KeyboardInterrupt:
        pass
    except Exception as error:  # noqa: BLE001 (of the machine, or a fault of ours: one message in any case)
        return _told(error)
    _say(_INTERRUPTED)
    return ExitCode.INTERRUPTED


def _is_unsaid(decided: SystemExit) -> bool:
    """Whether it is typer's way to end of an interrupt, without a word, and no command's own."""
    return isinstance(getattr(decided.__context__, "__cause__", None), KeyboardInterrupt)


def _told(error: Exception) -> int:
    """What nobody has put into words yet: the machine has run out of something, or it is our fault."""
    from testbed.errors import ExitCode, MachineError, machine_error, ran_out

    asked = " ".join(["run", *sys.argv[1:2]])
    number = error.errno if isinstance(error, OSError) else None
    if ran_out(error) is not None:
        told = machine_error(asked, error)
    elif number in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}:
        told = machine_error(f"write {getattr(error, 'filename', None) or 'what it has to say'}", error)
    elif number == errno.ENOENT and not _is_somewhere():
        told = MachineError(asked, "the current directory was removed", "go to one that is there: `cd`")
    else:
        return _fault(error)
    _say(f"testbed: cannot {told}\n")
    return ExitCode.CANNOT_RUN


def _is_somewhere() -> bool:
    """Whether the current directory is still there: pytest asks for it, and few others have need of it."""
    try:
        os.getcwd()  # noqa: PTH109 (pathlib is heavy)
    except OSError:
        return False
    return True


def _say(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:  # nobody can be told; the exit code says it still
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what is in the buffer is not written either


def _prepare_output() -> None:
    """Whatever the terminal's encoding lacks is replaced; closed descriptors are as /dev/null."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _fault(error: Exception) -> int:
    import traceback

    from testbed.errors import ExitCode
    from testbed.logs import save_log

    log = save_log("internal-error", "".join(traceback.format_exception(error)))
    _say(
        f"testbed: a fault in the testbed itself: {type(error).__name__}: {error}\n"
        f"  → please report it, with {log}\n"
    )
    return ExitCode.CANNOT_RUN


if __name__ == "__main__":
    main()
