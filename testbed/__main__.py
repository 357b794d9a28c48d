"""Where the command starts. An error reaches a person as one message, never as a traceback."""

from __future__ import annotations

import sys

from testbed.errors import TestbedError


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
        sys.exit(130)


if __name__ == "__main__":
    main()
