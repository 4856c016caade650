"""SPOOL/alerts.jsonl: every alert that was raised or cleared, one line each, by whichever daemon of the spool.

For people and programs that look later. Bounded: a full file becomes alerts.jsonl.1, in the place of the one before.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from inbox_daemon.layout import Spool
from inbox_daemon.spool import files
from inbox_daemon.text import dumps

_FULL = 1 << 20  # bytes


def append(spool: Spool, *said: dict[str, Any]) -> None:
    """Append a line for each, durably. Raises OSError, NotDurable; the journal has the alerts all the same."""
    with suppress(FileNotFoundError):
        if spool.alerts.stat().st_size >= _FULL:
            files.move(spool.alerts, spool.alerts.with_name(f"{spool.alerts.name}.1"))
    with files.Writer(spool.alerts, fresh=False) as writer:
        writer.write(b"\n" * files.is_cut(writer.fd) + b"".join(dumps(one) + b"\n" for one in said))
        writer.sync()
