"""One batch's life in order: enter, recover, run, finish. The same steps after a crash, each skipping what is done.

Owns what is in memory about one batch. Touches the disk only through `spool`, knows engines only by what they answer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import orjson

from inbox_daemon import batch, status
from inbox_daemon.config import ResultSettings
from inbox_daemon.dispatch import Queue
from inbox_daemon.errors import EngineDied, Rejected
from inbox_daemon.journal import of_batch
from inbox_daemon.layout import Published, Spool
from inbox_daemon.records import BatchStatus, EngineInfo, Fault, Outcome, Request, place_of, ticket
from inbox_daemon.spool import door, files, ingest
from inbox_daemon.spool.claim import Held
from inbox_daemon.spool.history import History
from inbox_daemon.spool.outcomes import Outcomes
from inbox_daemon.spool.publish import Merged, hand_back, publish

log = logging.getLogger(__name__)

_CLOSE_CHUNK = 500  # requests that are given their error at a time, when a batch ends early
_STATUS_EVERY = 1.0

BUSY, WAITING = True, False  # what a step says: call me again at once, or when something has happened


class Life:
    """Attributes:

    queue: what is left, in flight and done; empty until the batch is recovered.
    over: nothing is left to do; the batch's folder is gone from work.
    """

    def __init__(
        self, spool: Spool, held: Held, slot: int, rules: Callable[[], ingest.Rules], results: ResultSettings
    ) -> None:
        self.held, self.work, self.slot = held, held.work, slot
        self.results = results
        self.queue = Queue(0)
        self.over = False
        self.log_every = 100
        self._spool = spool
        self._rules = rules
        self._status = BatchStatus.VALIDATING
        self._tally = status.Tally()
        self._rate = status.Rate()
        self._history = History(self.work)
        self._created = int(self.work.id.removeprefix("batch_")[:12], 16) // 1000
        self._accepted: ingest.Accepted | None = None
        self._published: Published | None = None
        self._source: ingest.Input | None = None
        self._outcomes: Outcomes | None = None
        self._rejected: dict[str, Any] | None = None
        self._parked: str | None = None
        self._cancelled = self._paused = False
        self._deaths = 0  # in a row, with requests of ours in flight and no outcome between
        self.engine_view: dict[str, Any] = {}  # what the engine is doing now, for the status
        self._engine: EngineInfo | None = None
        self._unsynced_since: float | None = None
        self._sealed_at = time.monotonic()
        self._told_at = float("-inf")
        self._logged = 0
        self._log = of_batch(log, self.work.id)
        self._steps = self._live()

    @property
    def name(self) -> str:
        return self._published.dir.name if self._published else self.work.id

    def step(self) -> bool:
        """Do the next bounded piece of work; say whether there is more to do at once. Raises OSError, SpoolError."""
        return next(self._steps, WAITING)

    # -- the life

    def _live(self) -> Iterator[bool]:
        yield from self._enter()
        if self._rejected is None:
            yield from self._recover()
            yield from self._run()
            yield from self._finish()
        self.held.remove()
        self.over = True

    def _enter(self) -> Iterator[bool]:
        self._published = door.open_door(self._spool, self.work, self._object())
        self._log = of_batch(log, self.name)
        if not self.work.accepted.exists():
            self._log.info("%s: claimed", self.name)
            part = files.Writer(self.work.open_part, fresh=True)
            try:
                yield from _busily(ingest.ingest(self.work, self._rules(), part))
            except Rejected as rejected:
                self._reject(rejected)
                return
            finally:
                part.close()
        self._accepted = ingest.load(self.work)
        for dropped in list(self.work.dropped.iterdir()):
            files.remove(dropped)

    def _recover(self) -> Iterator[bool]:
        assert self._accepted is not None
        self._source = ingest.Input(self.work)
        self.queue = Queue(len(self._source.index))
        self.queue.held = True
        self._outcomes = Outcomes(self.work, len(self.queue))
        yield from _busily(self._outcomes.recover(self.slot, self._count))
        started = self._history.first("started") is not None
        self._history.note("resumed" if started else "started", time.time())
        self._logged = self._tally.done
        told = "resumed" if started else "accepted"
        self._log.info(
            "%s: %s: %d requests, %d done, %d of them errors",
            *(self.name, told, len(self.queue), self._tally.done, self._tally.failed),
        )

    def _run(self) -> Iterator[bool]:
        assert self._accepted is not None
        self._status = BatchStatus.IN_PROGRESS
        self._read_control()
        if self._accepted.refused:
            reason = f"{self._accepted.faults} faulty lines and inbox.strict: nothing of this file was run"
            yield from self._close("batch_refused", reason)
        while self.queue.done < len(self.queue):
            if self._cancelled and self._status is not BatchStatus.CANCELLING:
                self._status = BatchStatus.CANCELLING
                self._history.note("cancelling", time.time())
                self._told_at = float("-inf")
            self.queue.held = self._cancelled or self._paused or self.parked
            if self._cancelled and self.queue.in_flight == 0:
                yield from self._close("batch_cancelled", "the batch was cancelled before this request was run")
            yield WAITING

    def _finish(self) -> Iterator[bool]:
        assert self._accepted and self._outcomes and self._source and self._published
        self._sync(time.monotonic())
        self._seal(time.monotonic())
        self._history.note("finalizing", time.time())
        self._status = BatchStatus.FINALIZING
        self._tell(time.monotonic())
        final = self._final_status()
        merging = publish(self.work, self._published, self._outcomes, self._source, lambda m: self._receipt(final, m))
        yield from _busily(merging)
        self._status = final
        self._tell(time.monotonic())
        self.close()
        self._log.info(
            "%s: %s: %d answers, %d errors, %.0f s",
            *(self.name, final.value, self._tally.completed, self._tally.failed, time.time() - self._created),
        )

    def _final_status(self) -> BatchStatus:
        assert self._accepted is not None
        if self._cancelled:
            return BatchStatus.CANCELLED
        nothing_valid = self._accepted.faults == self._accepted.requests
        return BatchStatus.FAILED if nothing_valid or self._accepted.refused else BatchStatus.COMPLETED

    def _reject(self, rejected: Rejected) -> None:
        assert self._published is not None
        self._rejected = {"code": rejected.code, "line": None, "message": str(rejected), "param": None}
        self._status = BatchStatus.FAILED
        files.write_whole(self._published.receipt, batch.dumps(self._receipt(BatchStatus.FAILED, {})) + b"\n")
        self._tell(time.monotonic())
        hand_back(self.work, self._published)
        self._log.error("%s: failed: %s", self.name, rejected)

    def _close(self, code: str, message: str) -> Iterator[bool]:
        """Give every request that has no outcome this error: the one door by which a batch ends early."""
        assert self._source is not None
        chunk: list[Outcome] = []
        for place in list(self.queue.remaining()):
            custom_id = orjson.loads(self._source.line(place).removeprefix(b"\xef\xbb\xbf")).get("custom_id")
            fault = Fault(code, message, custom_id=custom_id)
            line = batch.error_line(batch.request_id(self.work.id, place), fault, self._source.number(place))
            chunk.append(Outcome(ticket(self.slot, place), line, is_error=True))
            if len(chunk) >= _CLOSE_CHUNK:
                self.settle(chunk, time.monotonic())
                chunk = []
                yield BUSY
        self.settle(chunk, time.monotonic())

    # -- requests out, outcomes in

    def take(self, count: int) -> list[Request]:
        """Return up to `count` requests for the engine, now in flight."""
        assert self._source is not None
        return [
            Request(
                ticket(self.slot, place),
                batch.request_id(self.work.id, place),
                self._source.number(place),
                self._source.line(place),
            )
            for place in self.queue.take(count)
        ]

    def settle(self, outcomes: Sequence[Outcome], now: float) -> None:
        """Append outcomes; each request is recorded once, whoever computed it twice."""
        assert self._outcomes is not None
        fresh = [outcome for outcome in outcomes if self.queue.settle(place_of(outcome.ticket))]
        if fresh:
            self._deaths = 0
            self._outcomes.append(fresh)
            if self._unsynced_since is None:
                self._unsynced_since = now

    def engine_died(self, died: EngineDied, max_deaths: int) -> None:
        """Take back what was in flight; after `max_deaths` deaths in a row without an answer, park."""
        returned = self.queue.give_back()
        if not returned:
            return
        self._deaths += 1
        self._history.note("engine_died", time.time(), reason=died.reason, in_flight=returned)
        self._log.warning("%s: engine died with %d requests in flight; they run again", self.name, returned)
        if self._deaths >= max_deaths:
            self._parked = f"the engine died {self._deaths} times in a row on this batch, last: {died.reason}"
            self.queue.held = True
            files.write_whole(self.work.parked, batch.dumps({"at": int(time.time()), "reason": self._parked}))
            self._log.error("%s: parked: %s", self.name, self._parked)

    def computed_by(self, info: EngineInfo) -> None:
        """Note which engine works on this batch, for status and receipt."""
        if info != self._engine:
            self._engine = info
            self._history.note("engine", time.time(), engine=info)

    # -- control

    def control(self, verb: str) -> None:
        """Take note that a control file has been carried out."""
        if verb == "resume":
            self._deaths = 0
        self._read_control()
        self._told_at = float("-inf")
        self._log.info("%s: %s", self.name, verb)

    def _read_control(self) -> None:
        """The state is which files exist; this is its copy in memory."""
        self._cancelled = self.work.cancel.exists()
        self._paused = self.work.pause.exists()
        parked = self.work.parked
        self._parked = orjson.loads(parked.read_bytes())["reason"] if parked.exists() else None

    @property
    def parked(self) -> bool:
        return self._parked is not None

    @property
    def had_errors(self) -> bool:
        return self._tally.failed > 0 or self._rejected is not None

    # -- durable, visible, told: what is due by the clock

    def tick(self, now: float) -> None:
        """Sync, seal and publish the status where they are due. Raises OSError, SpoolError."""
        if self._outcomes is None or self._status.final:
            return
        everything = self.queue.done == len(self.queue)
        waited = now - self._unsynced_since if self._unsynced_since is not None else 0.0
        if self._outcomes.unsynced >= self.results.sync_every or waited >= self.results.sync_after or everything:
            self._sync(now)
        full = self._outcomes.open_lines >= self.results.seal_every or self._outcomes.part_is_full
        if full or (self._outcomes.open_lines and now - self._sealed_at >= self.results.seal_after):
            self._seal(now)
        if now - self._told_at >= _STATUS_EVERY:
            self._tell(now)

    def _sync(self, now: float) -> None:
        assert self._outcomes is not None
        for outcome in self._outcomes.sync():
            self._tally.add(outcome)
        self._unsynced_since = None
        if self._tally.done - self._logged >= self.log_every:
            self._logged = self._tally.done
            rate, _ = self._rate.per_second()
            self._log.info("%s: %d of %d done, %.1f/s", *(self.name, self._tally.done, len(self.queue), rate))

    def _seal(self, now: float) -> None:
        assert self._outcomes and self._published
        self._sync(now)
        shown = self._outcomes.seal(door.ensure(self._published))
        self._sealed_at = now
        if shown:
            self._log.info("%s: sealed %s", self.name, shown.name)

    def _tell(self, now: float) -> None:
        assert self._published is not None
        self._told_at = now
        self._rate.mark(now, self._tally.done, self._tally.output_tokens)
        door.write_status(door.ensure(self._published), self._object())

    def _count(self, outcome: Outcome) -> None:
        self.queue.settle(place_of(outcome.ticket))
        self._tally.add(outcome)

    def _facts(self, state: BatchStatus) -> status.Facts:
        return status.Facts(
            id=self.work.id,
            name=self.name,
            source=self._accepted.source if self._accepted else next(self.work.dropped.iterdir()).name,
            created=self._created,
            status=state,
            history=self._history,
            tally=self._tally,
            accepted=self._accepted,
            in_flight=self.queue.in_flight,
            paused=self._paused,
            parked=self._parked,
            rejected=self._rejected,
            rates=self._rate.per_second(),
            model=self._engine.model if self._engine else "",
            engine=self.engine_view,
        )

    def _object(self) -> dict[str, Any]:
        return status.batch_object(self._facts(self._status), time.time())

    def _receipt(self, final: BatchStatus, merged: dict[str, Merged]) -> dict[str, Any]:
        return status.receipt(self._facts(final), merged, time.time())

    def rest(self, now: float) -> None:
        """Before the daemon stops: everything that has arrived becomes durable and visible. Raises as `tick` does."""
        if self._outcomes is not None:
            self._seal(now)
            self._tell(now)

    def close(self) -> None:
        """Let go of every open file; the batch on disk stays as it is."""
        if self._source is not None:
            self._source.close()
            self._source = None
        if self._outcomes is not None:
            self._outcomes.close()
            self._outcomes = None


def _busily(steps: Iterable[object]) -> Iterator[bool]:
    for _ in steps:
        yield BUSY
