"""Where the command starts. An error reaches a person as one message, never as a traceback."""

from __future__ import annotations

import sys
import traceback

from testbed.errors import ExitCode, TestbedError
from testbed.logs import save_log


def main() -> None:
    """Runs the command line and exits with its code."""
    try:
        from testbed.cli import app

        app()
    except TestbedError as error:
        sys.stderr.write(f"testbed: cannot {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("testbed: interrupted\n")
        sys.exit(ExitCode.INTERRUPTED)
    except Exception as error:  # noqa: BLE001 (a fault of ours; a person gets one message still)
        log = save_log("internal-error", traceback.format_exc())
        sys.stderr.write(
            f"testbed: a fault in the testbed itself: {type(error).__name__}: {error}\n"
            f"  → please report it, with {log}\n"
        )
        sys.exit(ExitCode.CANNOT_RUN)


if __name__ == "__main__":
    main()
