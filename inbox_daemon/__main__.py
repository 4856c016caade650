"""`python -m inbox_daemon` is `inbox-daemon`."""

from __future__ import annotations

import sys

from inbox_daemon.cli import main

if __name__ == "__main__":
    sys.exit(main())
