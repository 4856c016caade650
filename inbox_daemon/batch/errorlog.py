"""Which of a batch's request errors reach the log: a million faulty lines must not be a million log lines.

The first so many are said one by one, with line, custom_id, code and cause; the rest are counted and said together now
and then. errors.jsonl has them all. Nothing is said that a request's own text is part of (`privacy`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from contextlib import suppress

import orjson

from inbox_daemon.batch.face import Face
from inbox_daemon.journal import Message, tell
from inbox_daemon.privacy import READ, cause
from inbox_daemon.records import Fault, Outcome, place_of
from inbox_daemon.request.output import failure
from inbox_daemon.spool.ingest import Accepted, Input
from inbox_daemon.text import shown

ONE_BY_ONE = 10  # errors of a batch, in the life of this daemon
TOGETHER_EVERY = 60.0  # seconds between two lines for the rest


class ErrorLog:
    """The errors of one batch. `now` is monotonic seconds."""

    def __init__(self, face: Face) -> None:
        self._face = face
        self._said = 0
        self._more = 0
        self._summed_at = float("-inf")

    def say(self, outcomes: Iterable[Outcome], source: Input, now: float) -> None:
        """Say which of these are errors."""
        for outcome in outcomes:
            if outcome.is_error and self._takes():
                said = failure(orjson.loads(outcome.line))
                assert said is not None, "an outcome that is an error says so in its line"
                self._one(said.number, said.fault, source.start(place_of(outcome.ticket), READ + 1))
        self.sum_up(now)

    def say_faults(self, accepted: Accepted, source: Input, now: float) -> None:
        """Say which lines were found faulty at ingest, and what of the others vLLM will ignore."""
        for sentence in accepted.warnings:
            self._face.log.warning("%s: %s", self._face.name, sentence)
        for fault in accepted.shown:
            if self._takes():
                number = fault["line"]
                place = bisect_left(range(accepted.requests), number, key=source.number)
                self._one(number, Fault(fault["code"], fault["message"]), source.start(place, READ + 1))
        self._more += accepted.faults - len(accepted.shown)
        self.sum_up(now)

    def sum_up(self, now: float, *, final: bool = False) -> None:
        """Say how many more there were, where such a line is due."""
        if not self._more or (now - self._summed_at < TOGETHER_EVERY and not final):
            return
        name, log = self._face.name, self._face.log
        more, self._more, self._summed_at = self._more, 0, now
        fields = tell(Message.REQUEST_ERROR)
        log.warning("%s: %d more requests ended as errors; errors.jsonl will have them all", name, more, extra=fields)

    def _takes(self) -> bool:
        """Say whether the next error gets a line of its own; one that does not is counted."""
        if self._said < ONE_BY_ONE:
            self._said += 1
            return True
        self._more += 1
        return False

    def _one(self, number: int, fault: Fault, request: bytes) -> None:
        name, source, log = self._face.name, self._face.source, self._face.log
        custom_id = fault.custom_id or _custom_id(request)
        why = cause(fault.message, request)
        named = f" ({shown(str(custom_id))[:80]})" if custom_id else ""
        parts = (name, source, number, named, fault.code, f": {why}" if why else "")
        fields = tell(Message.REQUEST_ERROR, INBOX_LINE=number, INBOX_REQUEST=custom_id and shown(str(custom_id)))
        log.warning("%s: %s line %s%s ended as an error: %s%s", *parts, extra=fields)


def _custom_id(request: bytes) -> str | None:
    with suppress(ValueError, TypeError, KeyError):
        return str(orjson.loads(request)["custom_id"])
    return None
