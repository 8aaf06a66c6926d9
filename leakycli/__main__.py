"""`python -m leakycli`, and the command `leakycli`."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line. Until it takes signals itself, while modules are imported, SIGINT ends the process as it ends others."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from leakycli.cli import main

    main()


if __name__ == "__main__":
    main()
