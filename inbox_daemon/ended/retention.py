"""What of ended batches may go: pure, by what their receipts say and the clock. Touches nothing.

A batch without a receipt is none of this module's: it is in work, or its folder is somebody's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from inbox_daemon.config import UNTIL_THE_END, ResultSettings, seconds
from inbox_daemon.spool.remains import Ended

_LINGER = 600.0  # seconds after the end, for those who pull parts every few minutes


@dataclass(frozen=True, slots=True)
class Rules:
    """Seconds after its end for which a batch's folder stays, and for which its parts do; None: for ever."""

    folder: float | None
    parts: float | None


def rules(results: ResultSettings) -> Rules:
    parts = _LINGER if results.keep_parts == UNTIL_THE_END else seconds(results.keep_parts)
    return Rules(seconds(results.keep) or None, parts or None)


def folders_due(ended: Iterable[Ended], rules: Rules, now: float) -> Iterator[Ended]:
    """Yield whose folder may go. `now` is in Unix seconds."""
    return (one for one in ended if rules.folder is not None and now - one.at >= rules.folder)


def parts_due(ended: Iterable[Ended], rules: Rules, now: float) -> Iterator[Ended]:
    """Yield whose parts may go. `now` is in Unix seconds."""
    return (one for one in ended if rules.parts is not None and one.has_parts and now - one.at >= rules.parts)


def first_to_go(ended: Iterable[Ended]) -> Ended | None:
    """Return what goes first where room is needed: parts before results, which have the same lines; oldest first."""
    return min(ended, key=lambda one: (not one.has_parts, one.at), default=None)
