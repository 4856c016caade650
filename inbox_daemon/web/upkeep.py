"""What the web process does for its part of the spool at its start, and again each minute: the same."""

from __future__ import annotations

from collections.abc import Callable

from inbox_daemon.errors import InboxDaemonError
from inbox_daemon.layout import Spool
from inbox_daemon.spool import parted, store, submitted


def upkeep(spool: Spool, now: float) -> None:
    """Remove what a crash has left, hand over what waits for that, remove uploads whose time is over.

    Args:
        now: Unix seconds.

    Raises:
        InboxDaemonError, OSError: the first of what failed; the rest is done.
    """
    steps: tuple[Callable[[], object], ...] = (
        lambda: store.recover(spool),
        lambda: submitted.recover(spool),
        lambda: store.expire(spool, now),
        lambda: parted.expire(spool, now),
    )
    failed: list[Exception] = []
    for step in steps:
        try:
            step()
        except (InboxDaemonError, OSError) as error:
            failed.append(error)
    if failed:
        raise failed[0]
