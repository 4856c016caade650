"""What happened to one batch and when: `history.jsonl` in work/ID, one line an event.

The stamps and counts that outlive a restart (when it started, how often the engine died) are read from here and
nowhere else. Noting costs nothing; what was noted is on the disk once `save` has returned.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import orjson

from inbox_daemon.layout import Work
from inbox_daemon.machine import clock
from inbox_daemon.machine.clock import Moment
from inbox_daemon.spool import files
from inbox_daemon.text import dumps

_SAVE_AFTER = 1.0  # seconds; as answers, so events: those of the last second may be lost


class History:
    """The events of one batch, oldest first. Times are Unix seconds, but for `now`, which is monotonic."""

    def __init__(self, work: Work) -> None:
        self._path = work.history
        self.events: list[dict[str, Any]] = []
        self._unsaved_since: float | None = None
        with suppress(FileNotFoundError):
            for line in self._path.read_bytes().split(b"\n"):
                with suppress(ValueError):
                    event = orjson.loads(line)
                    if isinstance(event, dict) and "event" in event and "at" in event:
                        self.events.append(event)

    def note(self, event: str, at: float, **details: object) -> None:
        """Take note of one event. An engine's death is one for hundreds of batches at once, so nothing is synced."""
        moment = clock.now()
        self.events.append({"event": event, "at": round(at, 3), "boot": moment.boot, "up": moment.up, **details})
        if self._unsaved_since is None:
            self._unsaved_since = time.monotonic()

    def note_spent(self, seconds: float, joules: float | None) -> None:
        """Take note of how long engines have had something of the batch, and of what it has cost, where that is known:
        there is one such event, the last.
        """
        self.events = [event for event in self.events if event["event"] != "spent"]
        self.note("spent", time.time(), seconds=round(seconds, 2), joules=joules)

    @property
    def spent(self) -> tuple[float, float | None]:
        """Seconds in which engines had something of the batch, and joules, as noted last."""
        said = self.first("spent") or {}
        return float(said.get("seconds", 0.0)), said.get("joules")

    def save_is_due(self, now: float) -> bool:
        return self._unsaved_since is not None and now - self._unsaved_since >= _SAVE_AFTER

    def save(self) -> None:
        """Make durable what was noted; what counts or is told from now on may rest on it. Raises NotDurable.

        The file is short and written anew, never appended to: after an fsync that failed nobody knows which of the
        lines before are on the disk.
        """
        if self._unsaved_since is not None:
            files.write_whole(self._path, b"".join(dumps(one) + b"\n" for one in self.events))
            self._unsaved_since = None

    @property
    def model(self) -> str:
        """The model whose the requests are that name none: the first of those for them that has worked on the batch.

        As the settings name it; "" before, and in earlier versions.
        """
        worked = (event for event in self.events if event["event"] == "engine" and "model" in event)
        return str(next(worked, {}).get("model", ""))

    def first(self, event: str) -> Mapping[str, Any] | None:
        return next((e for e in self.events if e["event"] == event), None)

    def count(self, event: str) -> int:
        return sum(e["event"] == event for e in self.events)

    def count_lately(self, event: str, within: float, now: Moment, *, after: str) -> int:
        """Count the events of these last seconds, and only those since the last `after`, whoever has set the clock."""
        since = max((n for n, e in enumerate(self.events, 1) if e["event"] == after), default=0)
        counted = (e for e in self.events[since:] if e["event"] == event)
        return sum(clock.seconds_between(_moment(e), now) <= within for e in counted)

    def stamp(self, event: str) -> int | None:
        found = self.first(event)
        return int(found["at"]) if found else None


def _moment(event: Mapping[str, Any]) -> Moment:
    """When it happened; before 0.3.0 only the wall clock was noted."""
    return Moment(event["at"], event.get("boot", ""), event.get("up", 0.0))
