"""What users see of one batch: its name and its folder in the outbox, status.json, the receipt, its lines in the log.

Counts nothing itself and decides nothing: it says what `State` and `Books` have.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from inbox_daemon.batch import status
from inbox_daemon.batch.books import Books
from inbox_daemon.batch.state import State
from inbox_daemon.config import ResultSettings
from inbox_daemon.journal import Message, of_batch, tell
from inbox_daemon.layout import AGAIN, Published, Spool, Work
from inbox_daemon.machine import clock
from inbox_daemon.records import BatchStatus, EngineInfo
from inbox_daemon.spool import daemons, outbox, remains, resent
from inbox_daemon.spool.history import History
from inbox_daemon.spool.outcomes import Sealed
from inbox_daemon.spool.publish import Merged
from inbox_daemon.spool.shapes import BatchObject
from inbox_daemon.text import shown

log = logging.getLogger(__name__)

_STATUS_EVERY = 1.0  # seconds
_STILL_EVERY = 30.0  # seconds, where a batch waits for somebody's word and nothing of it has changed
_TOLD_A_SECOND = 32  # batches' statuses; each is an fsync


class Face:
    """One batch as its users know it. `now` is monotonic seconds throughout.

    Attributes:
        file: the name of the file as it was dropped; `source` is that as it may be shown.
        created: Unix seconds of the claim; the id begins with it.
        present: what engines and models are doing now, for the status.
        told: the last status.json; replaced whole.
    """

    def __init__(self, spool: Spool, work: Work, state: State) -> None:
        self.history = History(work)
        self.log = of_batch(log, work.id)
        self._spool, self._work, self._state = spool, work, state
        self._origin = outbox.origin_of(work)
        self.file = self._origin.source
        self.source = shown(self.file)
        self.created = int(work.claimed_at)
        self.present = status.Present()
        self.told: dict[str, Any] = {}
        self._published: Published | None = None
        self._told_at = self._written_at = float("-inf")
        self._logged = 0

    @property
    def name(self) -> str:
        return self._published.dir.name if self._published else self._work.id

    @property
    def age(self) -> float:
        """Seconds since the claim, whoever has set the clock meanwhile."""
        return clock.seconds_between(self._origin.claimed, clock.now())

    @property
    def has_name(self) -> bool:
        return self._published is not None

    def folder(self) -> Published:
        """Return the batch's folder in the outbox, there even where a user has removed it; take a name at first."""
        if self._published is None or outbox.is_anothers(self._published, self._work):
            self._published = outbox.open_door(self._spool, self._work, self._origin, self._first_status)
            self.log = of_batch(log, self.name)
            outbox.take_up(self._spool, self._work)
        return outbox.ensure(self._published)

    def keep_input(self, results: ResultSettings) -> None:
        """Show the accepted requests in the batch's folder, once: nobody brings back what its user has taken away."""
        if results.keep_input and not outbox.keep_input(self._work, self.folder()):
            self.log.info("%s: its input.jsonl is not kept: the spool's file system has no hard links", self.name)

    # -- status.json

    def is_due(self, now: float, batches: int) -> bool:
        """Say whether the status is to be written again; of many `batches` each more seldom."""
        return self.has_name and now - self._told_at >= max(_STATUS_EVERY, batches / _TOLD_A_SECOND)

    def tell(self, books: Books | None, now: float) -> None:
        """Write status.json."""
        self._told_at = now
        if books is not None:
            books.mark(now)
        told = status.batch_object(self._facts(books), time.time())
        if not self._state.rests or _but_for_the_time(told) != _but_for_the_time(self.told) or self._is_old(now):
            self.told, self._written_at = told, now
            outbox.write_status(self.folder(), told)

    def _is_old(self, now: float) -> bool:
        return now - self._written_at >= _STILL_EVERY

    def rest(self, books: Books | None) -> None:
        """Say in status.json that no daemon has the batch in work any more; the next one says otherwise."""
        if self._state.status.final:
            return
        self.history.save()
        unread = self._state.hopeless and self._state.accepted is None and self.has_name
        if books is None and not unread:  # what was said last is all that is known
            outbox.rest(self._spool, self._work)
            return
        said = cast(BatchObject, status.batch_object(self._facts(books), time.time()))
        outbox.write_status(self.folder(), outbox.at_rest(said))

    def tell_soon(self) -> None:
        """Have the status be due, whatever the clock says."""
        self._told_at = float("-inf")

    def last_words(
        self, books: Books | None, final: BatchStatus, merged: dict[str, Merged]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the status and the receipt with which the batch ends; what `publish` tells, nobody tells again."""
        self._state.status = final
        folder = self.folder()  # for its name: a user may have removed it while the answers were merged
        facts, at = self._facts(books), time.time()
        self.told = status.batch_object(facts, at)
        kept = folder.input.name if self._state.accepted and folder.input.exists() else None
        return self.told, status.receipt(facts, merged, kept, at)

    def note_end(self, program: Sequence[str]) -> None:
        """Note durably what the operator's program is to hear of the batch's end, if there is one (`batches.ended`)."""
        if program:
            folder = self.folder()
            said = remains.last_words(self._work, folder) or self.told
            remains.note_end(self._work, status.end(said, folder.dir, socket.gethostname()))

    def _first_status(self, name: str) -> dict[str, Any]:
        self._told_at, self.told = time.monotonic(), status.batch_object(self._facts(None, name), time.time())
        return self.told

    def _facts(self, books: Books | None, name: str | None = None) -> status.Facts:
        counts: dict[str, Any] = {}
        if books is not None:
            queue = books.queue
            counts |= {"tally": books.tally, "in_flight": queue.in_flight, "priority": queue.priority}
            counts |= {
                "busy": books.busy.seconds,
                "energy": books.energy,
                "speed": books.speed,
                "eta": books.eta(),
                "lanes": queue.lanes,
            }
        return status.Facts(
            id=self._work.id,
            name=name or self.name,
            source=self._origin.source,
            mark=self._origin.mark,
            created=self.created,
            daemon=daemons.me(),
            age=self.age,
            state=self._state,
            history=self.history,
            resent=resent.times(self._work),
            present=self.present,
            **counts,
        )

    def worked_on_by(self, engine: EngineInfo, model: str | None) -> None:
        """Note which engine works on the batch, for the receipt, and whose the requests without a model are by that."""
        self._state.model = engine.model
        self.history.note("engine", time.time(), engine=engine, **({} if model is None else {"model": model}))

    # -- the log

    def say_sealed(self, sealed: Sealed | None) -> None:
        for name in sealed.strangers if sealed else ():
            self.log.warning("%s: parts/%s in its outbox folder is not ours; the next number is taken", self.name, name)
        if sealed:
            self.log.info("%s: sealed %s", self.name, sealed.shown.name, extra=tell(Message.BATCH_SEALED))

    def say_progress(self, books: Books, log_every: int) -> None:
        """Say how far it is, every so many requests."""
        done = books.tally.done
        if done - self._logged >= log_every:
            self._logged = done
            self.log.info("%s: %d of %d done, %.1f/s", self.name, done, len(books.queue), books.speed.requests)

    def say_accepted(self, books: Books, what: str) -> None:
        """Say what there is to do; what was done before this process began is no progress to speak of."""
        self._logged = books.tally.done
        counts = (len(books.queue), books.tally.done, books.tally.failed)
        fields = tell(Message.BATCH_ACCEPTED)
        self.log.info("%s: %s: %d requests, %d done, %d of them errors", self.name, what, *counts, extra=fields)

    def say_ended(self, receipt: Mapping[str, Any]) -> None:
        final, problem = receipt["status"], receipt["problem"]
        if problem and final == BatchStatus.FAILED:
            self.log.error("%s: failed: %s", self.name, problem["message"], extra=tell(Message.BATCH_FAILED))
        elif problem:
            self.log.info("%s: cancelled: %s", self.name, problem["message"], extra=tell(Message.BATCH_COMPLETED))
        else:
            counts = (receipt["answers"], receipt["errors"], receipt["times"]["seconds"])
            ended = tell(Message.BATCH_COMPLETED)
            self.log.info("%s: %s: %d answers, %d errors, %.0f s", self.name, final, *counts, extra=ended)

    def say_sent_again(self, first: str) -> None:
        log_of_first, again = of_batch(log, first), f"{self.source}{AGAIN}"
        log_of_first.info(
            "%s: %s was sent again, byte for byte, and is not run; to have it run, touch %s beside it",
            first,
            self.source,
            again,
        )

    def say_waits(self, model: str, served: Sequence[str]) -> None:
        """Say for which model it waits; `served` are those of this daemon."""
        having = f"{shown(served[0]) or 'none with a name'} (engine.model)"
        self.log.warning(
            "%s: waits for an engine of %s, which alone may answer what is left; this daemon has %s",
            self.name,
            shown(model),
            having if len(served) == 1 else shown(", ".join(served)),
        )

    def say_waits_for_memory(self) -> None:
        self.log.warning("%s: waits for memory: what is in work takes all of inbox.max_memory_bytes", self.name)

    def say_room(self, lacking: int) -> None:
        if lacking:
            self.log.error("%s: waiting for disk space: %d MB more needed", self.name, 1 + lacking // 1_000_000)
        else:
            self.log.info("%s: there is disk space again", self.name)


def _but_for_the_time(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of a batch itself, without when, and what engines do for others."""
    return {key: value for key, value in told.items() if key not in ("updated_at", "engines", "models")}
