"""Where the command starts. An error reaches a person as one message, never as a traceback."""

from __future__ import annotations

import sys

try:
    import errno
    import os
    import traceback
    from typing import NoReturn

    from testbed.errors import ExitCode, TestbedError, errno_name
    from testbed.logs import save_log
except KeyboardInterrupt:  # already
    sys.exit(130)


def main() -> None:
    """Runs the command line and exits with its code."""
    _prepare_output()
    try:
        from testbed.cli import app

        app()
    except TestbedError as error:
        sys.stderr.write(f"testbed: cannot {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("testbed: interrupted\n")
        sys.exit(ExitCode.INTERRUPTED)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EIO, errno.EFBIG}:
            _fault(error)
        sys.stderr.write(f"testbed: cannot write what it has to say: {errno_name(error.errno or 0)}\n")
        sys.exit(ExitCode.CANNOT_RUN)
    except Exception as error:  # noqa: BLE001 (a fault of ours; a person gets one message still)
        _fault(error)


def _prepare_output() -> None:
    """Whatever the terminal's encoding lacks is replaced; closed descriptors are as /dev/null."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _fault(error: Exception) -> NoReturn:
    log = save_log("internal-error", traceback.format_exc())
    sys.stderr.write(
        f"testbed: a fault in the testbed itself: {type(error).__name__}: {error}\n"
        f"  → please report it, with {log}\n"
    )
    sys.exit(ExitCode.CANNOT_RUN)


if __name__ == "__main__":
    main()
