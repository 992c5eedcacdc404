"""The command `hv`, also as `python -m hv`. It loads the command line, which takes a moment; Ctrl-C may come in it."""

from __future__ import annotations

import signal


def main() -> None:
    """Entry point of the command."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a plain end, not a traceback out of somebody's import
    try:
        from hv.cli import main as run

        run()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the interpreter ends: the same once more


if __name__ == "__main__":
    main()
