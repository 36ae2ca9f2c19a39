"""Where the command starts: Ctrl-C ends it with one line while its modules load, too."""

from __future__ import annotations

import os
import signal
import sys

# torch's threads wait for each other by spinning, by default for so long that beside another busy program a step
# takes forty times as long. A thousand turns, some ten microseconds, lose nothing on an idle machine.
_SPINS = "1000"


def main() -> None:
    """Runs the command line, see :func:`goskill.cli.main`."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
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
