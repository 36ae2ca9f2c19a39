"""Where the command starts: Ctrl-C ends it with one line while its modules load, too."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Runs the command line, see :func:`goskill.cli.main`."""
    try:
        from goskill.cli import main as command

        command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        # All is said: what is left is the interpreter's own end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    main()
