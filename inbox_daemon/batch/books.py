"""The books of one batch: what of it is recorded, durable and counted, and how fast that goes.

An outcome is counted only once the log has made it durable. Never decides what runs, and shows nobody anything
(`face`).
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence

from inbox_daemon.batch.pace import Busy, Done, Pace, Speed, seconds_left
from inbox_daemon.batch.queue import Queue
from inbox_daemon.batch.status import Tally
from inbox_daemon.config import ResultSettings
from inbox_daemon.layout import Published, Work
from inbox_daemon.records import Outcome, place_of
from inbox_daemon.spool.ingest import Input
from inbox_daemon.spool.outcomes import Outcomes, Sealed

_ENOUGH_TO_JUDGE = 50  # outcomes, before their average size says anything about the rest


class Books:
    """What one batch has of outcomes. `now` is monotonic seconds throughout.

    Args:
        models: of the batch's requests (`Accepted.models`).
        totals: what all batches together have made durable in the life of this daemon.

    Attributes:
        queue: what is left, in flight and done.
        tally: the durable outcomes, counted.
        outcomes: the log.
        busy: how long engines have had something of it; whoever takes and gives back keeps it (`running`).
        energy: joules that GPUs have spent on it, as far as is known (`watch/energy`).
    """

    def __init__(self, work: Work, source: Input, models: Sequence[str], totals: Tally) -> None:
        index = source.index
        self.queue = Queue(len(index), index.order, models, index.models)
        self.queue.held = True  # until the log has been read back
        self.tally = Tally()
        self.outcomes = Outcomes(work, len(index))
        self._source, self._totals = source, totals
        self.busy = Busy()
        self.energy: float | None = None
        self._pace = Pace()
        self._left_bytes = source.length
        self._answer_bytes = 0
        self._unsynced_since: float | None = None
        self._sealed_at = time.monotonic()

    def read_back(self, number: int, folder: Published) -> Generator[None, None, None]:
        """Start, or start again: everything that the log holds is done and counted. Yields now and then.

        Args:
            number: of the batch in this process, part of its requests' tickets.
        """
        yield from self.outcomes.recover(number, self._count, folder)
        self._pace.mark(time.monotonic(), self._done(), in_flight=0)

    def append(self, outcomes: Sequence[Outcome], now: float) -> bool:
        """Record outcomes, each request once, whoever computed it twice. Say whether any was new."""
        fresh = [outcome for outcome in outcomes if self.queue.settle(place_of(outcome.ticket))]
        if fresh:
            self.outcomes.append(fresh)
            if self._unsynced_since is None:
                self._unsynced_since = now
        return bool(fresh)

    def sync_is_due(self, results: ResultSettings, now: float) -> bool:
        waited = now - self._unsynced_since if self._unsynced_since is not None else 0.0
        complete = self.queue.done == len(self.queue)
        return self.outcomes.unsynced >= results.sync_every or waited >= results.sync_after or complete

    def sync(self) -> None:
        """Make durable what was appended, and count it. Raises NotDurable."""
        for outcome in self.outcomes.sync():
            self._add(outcome)
            self._totals.add(outcome)
        self._unsynced_since = None

    def seal_is_due(self, results: ResultSettings, now: float) -> bool:
        full = self.outcomes.open_lines >= results.seal_every or self.outcomes.part_is_full
        return full or (self.outcomes.open_lines > 0 and now - self._sealed_at >= results.seal_after)

    def seal(self, folder: Published, now: float) -> Sealed | None:
        """Make what is durable visible in the outbox; return the part, if there is one."""
        self._sealed_at = now
        return self.outcomes.seal(folder)

    # -- counts

    def mark(self, now: float) -> None:
        """Note how far the batch has come by now."""
        self._pace.mark(now, self._done(), self.queue.in_flight, owed=self._unsynced_since is not None)

    @property
    def work(self) -> int:
        """What is done, in prompt tokens' worth (`pace`); a request where no tokens are counted."""
        done = self._done()
        return done.work or done.requests

    @property
    def speed(self) -> Speed:
        return self._pace.speed

    def eta(self) -> float | None:
        """Return the seconds until the last answer, at the pace of the last minute; None where there is none, or where
        something waits for its model's turn: how long that takes, others decide.
        """
        if any(lane.waits and lane.left for lane in self.queue.lanes):
            return None
        left = len(self.queue) - self.tally.done
        return seconds_left(self._done(), left, self._left_bytes, self._pace.speed, self._pace.at_once)

    def bytes_to_come(self) -> float:
        """Return what is still to be written: each answer goes into the log, and is written again when merged."""
        done = self.tally.done
        average = self.outcomes.bytes / done if done >= _ENOUGH_TO_JUDGE else 0.0
        return average * (2 * (len(self.queue) - done) + done)

    def _count(self, outcome: Outcome) -> None:
        self.queue.settle(place_of(outcome.ticket))
        self._add(outcome)

    def _add(self, outcome: Outcome) -> None:
        self.tally.add(outcome)
        size = self._source.size(place_of(outcome.ticket))
        self._left_bytes -= size
        self._answer_bytes += 0 if outcome.is_error else size

    def _done(self) -> Done:
        tally = self.tally
        tokens = (tally.input_tokens, tally.cached_tokens, tally.output_tokens)
        return Done(tally.done, tally.completed, self._answer_bytes, *tokens)

    def close(self) -> None:
        self.outcomes.close()
