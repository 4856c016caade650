"""What of one batch is recorded, durable, visible and told, and when each is due.

Owns the tally, the rate and the status that users read. An outcome is counted only once the log has made it durable.
Never decides what runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

from inbox_daemon.batch import status
from inbox_daemon.batch.errorlog import ErrorLog
from inbox_daemon.batch.pace import Done, Pace, seconds_left
from inbox_daemon.batch.queue import Queue
from inbox_daemon.config import ResultSettings
from inbox_daemon.errors import Rejected
from inbox_daemon.journal import Message, of_batch, tell
from inbox_daemon.layout import Published, Spool, Work, batch_name
from inbox_daemon.machine import disk
from inbox_daemon.records import BatchStatus, Outcome, place_of
from inbox_daemon.spool import files, outbox, published
from inbox_daemon.spool.history import History
from inbox_daemon.spool.ingest import Accepted, Input
from inbox_daemon.spool.outcomes import Outcomes
from inbox_daemon.spool.publish import Merged
from inbox_daemon.spool.source import BLOCK
from inbox_daemon.text import dumps

log = logging.getLogger(__name__)

_STATUS_EVERY = 1.0  # seconds
_LOOK_EVERY = 2.0  # seconds between two looks at the disk's free space
_TOLD_A_SECOND = 32  # batches' statuses; each is an fsync
CANCELLED = "batch_cancelled"  # the code of what a batch that was cancelled did not run
_ENOUGH_TO_JUDGE = 50  # outcomes, before their average size says anything about the rest


class Ledger:
    """The books of one batch. `now` is monotonic seconds throughout.

    Args:
        totals: what all batches together have made durable in the life of this daemon.

    Attributes:
        queue: what is left, in flight and done; empty until the log has been read back.
        state, accepted, paused, parked, rejected, model, engine: what the status says of the batch, beside counts.
        cancelled: somebody has said so; nothing more of it is run.
    """

    def __init__(self, spool: Spool, work: Work, results: ResultSettings, log_every: int, totals: status.Tally) -> None:
        self.work = work
        self.results = results
        self.log_every = log_every
        self.queue = Queue(0)
        self.history = History(work)
        self.tally = status.Tally()
        self._totals = totals
        self.errors = ErrorLog(lambda: (self.name, self.source, self.log))
        self.state = BatchStatus.VALIDATING
        self.accepted: Accepted | None = None
        self.cancelled = False
        self.paused = False
        self.parked: str | None = None
        self.lacking = 0  # bytes of disk that must become free before more of it is run
        self.rejected: dict[str, Any] | None = None
        self.model = ""
        self.engine: dict[str, Any] = {}
        self.told: dict[str, Any] = {}  # the last status.json; replaced whole
        self._origin = outbox.origin_of(work)
        self.source = self._origin.source
        self.created = int(work.id.removeprefix("batch_")[:12], 16) // 1000  # the id begins with the claim's time
        self.log = of_batch(log, work.id)
        self._spool = spool
        self._published: Published | None = None
        self._outcomes: Outcomes | None = None
        self._pace = Pace()
        self._size: Callable[[int], int] = lambda place: 0  # bytes of a request's line
        self._left_bytes = 0
        self._answer_bytes = 0
        self._unsynced_since: float | None = None
        self._sealed_at = time.monotonic()
        self._told_at = float("-inf")
        self._looked_at = float("-inf")
        self._logged = 0

    @property
    def published(self) -> Published:
        """The batch's folder in the outbox, there even where a user has removed it."""
        if self._published is None or outbox.is_anothers(self._published, self.work):
            self._published = outbox.open_door(self._spool, self.work, self._origin, self._object)
            self.log = of_batch(log, self.name)
        return outbox.ensure(self._published)

    @property
    def name(self) -> str:
        return self._published.dir.name if self._published else self.work.id

    @property
    def has_name(self) -> bool:
        return self._published is not None

    @property
    def held(self) -> bool:
        """Whether somebody has said that nothing more of it is to run."""
        return self.cancelled or self.paused or self.parked is not None

    @property
    def outcomes(self) -> Outcomes:
        assert self._outcomes is not None, "the log is read back before anything is asked of it"
        return self._outcomes

    @property
    def recovered(self) -> bool:
        """Whether the log has been read back, and nothing has closed it since."""
        return self._outcomes is not None

    @property
    def _is_counted(self) -> bool:
        return self.accepted is None or self.recovered

    def refuse_resent(self, window: float) -> None:
        """Raise Rejected where the same file was dropped under the same name within `window` seconds before."""
        assert self.accepted is not None
        since = self.created - window
        if twin := published.twin(self._spool, batch_name(self.source), self.accepted.sha256, self.work.id, since):
            again = "drop it under another name to run it again (inbox.dedupe_window)"
            self.accepted = None
            raise Rejected("duplicate_file", f"{self.source}: the same bytes as {twin}, a re-send; {again}")

    def read_back(self, slot: int, source: Input) -> Generator[None, None, None]:
        """Start, or start again: everything that the log holds is done and counted. Yields now and then."""
        assert self.accepted is not None
        self.queue = Queue(self.accepted.requests, source.index.order)
        self.queue.held = True
        self._size, self._left_bytes = source.size, source.length
        outcomes = Outcomes(self.work, len(self.queue))
        yield from outcomes.recover(slot, self._count, self.published)
        self._outcomes = outcomes
        self._logged = self.tally.done
        self._pace.mark(time.monotonic(), self._done(), working=False)

    def append(self, outcomes: Sequence[Outcome], now: float) -> bool:
        """Record outcomes, each request once, whoever computed it twice. Say whether any was new."""
        fresh = [outcome for outcome in outcomes if self.queue.settle(place_of(outcome.ticket))]
        if fresh:
            self.outcomes.append(fresh)
            if self._unsynced_since is None:
                self._unsynced_since = now
        return bool(fresh)

    def tick(self, now: float, batches: int = 1) -> None:
        """Sync, seal and tell where they are due, of many batches more seldom. Raises OSError, SpoolError."""
        if self.state.final:
            return
        if self._outcomes is not None:
            self._sync_and_seal(self._outcomes, now)
        # From the name on, so that a long file's reading is seen; not while the log is read back, which counts what
        # becomes durable at its end.
        told_last = now - self._told_at
        if self.has_name and self._is_counted and told_last >= max(_STATUS_EVERY, batches / _TOLD_A_SECOND):
            self.tell(now)

    def _sync_and_seal(self, outcomes: Outcomes, now: float) -> None:
        results = self.results
        waited = now - self._unsynced_since if self._unsynced_since is not None else 0.0
        complete = self.queue.done == len(self.queue)
        if outcomes.unsynced >= results.sync_every or waited >= results.sync_after or complete:
            self._sync()
        full = outcomes.open_lines >= results.seal_every or outcomes.part_is_full
        if full or (outcomes.open_lines and now - self._sealed_at >= results.seal_after):
            self.seal(now)

    def seal(self, now: float) -> None:
        """Make everything that has arrived durable, and visible in the outbox."""
        self._sync()
        part = self.outcomes.seal(self.published)
        self._sealed_at = now
        if part:
            self.log.info("%s: sealed %s", self.name, part.name, extra=tell(Message.BATCH_SEALED))

    def tell(self, now: float) -> None:
        """Write status.json."""
        self._told_at = now
        working = self.queue.in_flight > 0 or self._unsynced_since is not None
        self._pace.mark(now, self._done(), working)
        self.told = self._object()
        outbox.write_status(self.published, self.told, last=self.state.final)

    def tell_soon(self) -> None:
        """Have the next `tick` write the status, whatever the clock says."""
        self._told_at = float("-inf")

    def look_for_room(self, now: float) -> None:
        """Work out, now and then, whether what is still to come fits.

        Each answer is written to the log and again when merged; of a file that is being read the next block must fit.
        """
        if now - self._looked_at < _LOOK_EVERY:
            return
        self._looked_at = now
        done = self.tally.done
        average = self.outcomes.bytes / done if done >= _ENOUGH_TO_JUDGE else 0.0
        to_come = average * (2 * (len(self.queue) - done) + done) if self.recovered else BLOCK
        lacking = disk.lacking(self.work.dir, to_come + self.results.keep_free)
        changed, self.lacking = bool(lacking) != bool(self.lacking), lacking
        if changed:
            self.tell(now)
            if lacking:
                self.log.error("%s: waiting for disk space: %d MB more needed", self.name, 1 + lacking // 1_000_000)
            else:
                self.log.info("%s: there is disk space again", self.name)

    def eta(self) -> float | None:
        """Return the seconds until the last answer, at the pace of the last minute; None where there is none."""
        left = len(self.queue) - self.tally.done
        return seconds_left(self._done(), left, self._left_bytes, self._pace.speed)

    def park(self, reason: str, now: float) -> None:
        """Note durably that nothing more of it runs until somebody says resume. `now` is in Unix seconds."""
        files.write_whole(self.work.parked, dumps({"at": int(now), "reason": reason}))
        self.history.note("parked", now, reason=reason)

    def reject(self, rejected: Rejected) -> None:
        """Note durably, before anybody is told, that the file is no batch: with room on the disk it might be one."""
        self.rejected = {"code": rejected.code, "line": None, "message": str(rejected), "param": None}
        self.state = BatchStatus.CANCELLED if rejected.code == CANCELLED else BatchStatus.FAILED
        if self.history.first("rejected") is None:
            self.history.note("rejected", time.time(), code=rejected.code, reason=str(rejected))

    def stay_rejected(self) -> None:
        """Raise Rejected where the file has been rejected before a restart."""
        if said := self.history.first("rejected"):
            raise Rejected(said["code"], said["reason"])

    def final(self) -> BatchStatus:
        """Return the status with which the batch ends, once every request has its outcome."""
        assert self.accepted is not None
        if self.cancelled:
            return BatchStatus.CANCELLED
        nothing_ran = self.accepted.refused or self.accepted.faults == self.accepted.requests
        return BatchStatus.FAILED if nothing_ran else BatchStatus.COMPLETED

    def receipt(self, final: BatchStatus, merged: dict[str, Merged]) -> dict[str, Any]:
        return status.receipt(self._facts(final), merged, time.time())

    def close(self) -> None:
        if self._outcomes is not None:
            self._outcomes.close()
            self._outcomes = None

    def _sync(self) -> None:
        for outcome in self.outcomes.sync():
            self._add(outcome)
            self._totals.add(outcome)
        self._unsynced_since = None
        if self.tally.done - self._logged >= self.log_every:
            self._logged = self.tally.done
            rate = self._pace.speed.requests
            self.log.info("%s: %d of %d done, %.1f/s", self.name, self.tally.done, len(self.queue), rate)

    def _count(self, outcome: Outcome) -> None:
        self.queue.settle(place_of(outcome.ticket))
        self._add(outcome)

    def _add(self, outcome: Outcome) -> None:
        self.tally.add(outcome)
        size = self._size(place_of(outcome.ticket))
        self._left_bytes -= size
        self._answer_bytes += 0 if outcome.is_error else size

    def _done(self) -> Done:
        tally = self.tally
        tokens = (tally.input_tokens, tally.cached_tokens, tally.output_tokens)
        return Done(tally.done, tally.completed, self._answer_bytes, *tokens)

    def _object(self, name: str | None = None) -> dict[str, Any]:
        return status.batch_object(self._facts(self.state, name), time.time())

    def _facts(self, state: BatchStatus, name: str | None = None) -> status.Facts:
        return status.Facts(
            id=self.work.id,
            name=name or self.name,
            source=self.source,
            mark=self._origin.mark,
            created=self.created,
            status=state,
            history=self.history,
            tally=self.tally,
            accepted=self.accepted,
            in_flight=self.queue.in_flight,
            priority=self.queue.priority,
            paused=self.paused,
            parked=None if state.final else self.parked,
            lacking=0 if state.final else self.lacking,
            rejected=self.rejected,
            speed=self._pace.speed,
            eta=self.eta(),
            model=self.model,
            engine=self.engine,
        )
