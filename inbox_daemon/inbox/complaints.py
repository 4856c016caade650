"""What the log has of files that are not taken: each reason once, and of hundreds at a time some by name."""

from __future__ import annotations

import logging
from collections.abc import Set

from inbox_daemon.text import shown

log = logging.getLogger(__name__)

_SAID = 20  # files whose reason the log has from one scan; it counts the others


class Complaints:
    """The reasons that the log has already."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str]] = set()
        self._new = 0  # since the last scan

    def say(self, name: str, why: str) -> None:
        """Log why a file is not taken, once for each reason."""
        if (name, why) not in self._known:
            self._known.add((name, why))
            self._new += 1
            if self._new <= _SAID:
                log.warning("inbox: '%s' %s", shown(name), why)

    def scanned(self, names: Set[str]) -> None:
        """Take note that a scan is over: of files that have gone, nothing was said; of how many not all was said."""
        self._known = {pair for pair in self._known if pair[0] in names}
        if self._new > _SAID:
            log.warning("inbox: %d more files are not taken; inbox-daemon status says why", self._new - _SAID)
        self._new = 0
