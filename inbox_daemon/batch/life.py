"""One batch's life in order: enter, recover, run, finish. The same steps after a crash, each skipping what is done.

Owns the order and what control files and engine deaths mean for it. Touches the disk only through `spool` and
`ledger`, knows engines only by what they answer.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

import orjson

from inbox_daemon.batch.ledger import CANCELLED, Ledger
from inbox_daemon.batch.queue import Queue
from inbox_daemon.batch.twins import Twins
from inbox_daemon.errors import EngineDied, Rejected
from inbox_daemon.journal import Message, tell
from inbox_daemon.layout import Work
from inbox_daemon.records import BatchStatus, EngineInfo, Fault, Outcome, Request, ticket
from inbox_daemon.request.line import error_line, request_id
from inbox_daemon.request.reading import Rules
from inbox_daemon.slices import busily, in_slices
from inbox_daemon.spool import control, files, ingest
from inbox_daemon.spool.claim import Held
from inbox_daemon.spool.publish import discard, hand_back, publish, write_receipt

_HOUR = 3600.0
_LONG_READING = 1.0  # seconds; a short file that is refused must not have cost an engine start
_NAMING_READS = 16 << 20  # bytes of requests read to name those in flight
_CLOSE_SLICE = 0.01  # seconds of giving requests their error at a time, when a batch ends early

BUSY, WAITING = True, False  # what a step says: call me again at once, or when something has happened


class Life:
    """Args:

    named: called when the batch has its name, before anything of it is read or run.

    Attributes:
        slot: the batch's number in this process, part of its requests' tickets.
        over: nothing is left to do; the batch's folder is gone from work.
    """

    def __init__(
        self, held: Held, slot: int, ledger: Ledger, rules: Callable[[], Rules], named: Callable[[Life], None]
    ) -> None:
        self.held, self.slot, self.ledger = held, slot, ledger
        self.over = False
        self._rules, self._named = rules, named
        self._source: ingest.Input | None = None
        self._twins: Twins | None = None
        self._engine: EngineInfo | None = None
        self._begun = time.monotonic()
        self._steps: Generator[bool, None, None] = self._live()

    @property
    def work(self) -> Work:
        return self.held.work

    @property
    def name(self) -> str:
        return self.ledger.name

    @property
    def queue(self) -> Queue:
        return self.ledger.queue

    @property
    def wants_engine(self) -> bool:
        """Whether it has requests for an engine, or will most likely have some: a long file is read while it loads."""
        reading = not self.ledger.recovered and not self.ledger.state.final
        long = reading and time.monotonic() - self._begun > _LONG_READING
        return long or self.queue.takeable > 0 or self.queue.in_flight > 0

    @property
    def had_errors(self) -> bool:
        return self.ledger.tally.failed > 0 or self.ledger.rejected is not None

    def step(self) -> bool:
        """Do the next bounded piece of work; say whether there is more to do at once. Raises OSError, SpoolError."""
        return next(self._steps, WAITING)

    # -- the life

    def _live(self) -> Generator[bool, None, None]:
        try:
            yield from self._enter()
        except Rejected as rejected:
            self._reject(rejected)
        else:
            yield from self._recover()
            yield from self._run()
            yield from self._finish()
        self.held.remove()
        self.over = True

    def _enter(self) -> Iterator[bool]:
        self.ledger.stay_rejected()
        if self.work.accepted.exists():
            self.ledger.accepted = ingest.load(self.work)
        _ = self.ledger.published
        self.read_control()
        self._named(self)
        if self.ledger.accepted is None:
            self.ledger.log.info("%s: claimed", self.name, extra=tell(Message.BATCH_CLAIMED))
            with files.Writer(self.work.open_part, fresh=True) as part:
                reading = ingest.ingest(self.work, self._rules(), part)
                self.ledger.accepted = yield from busily(reading, self._while_reading)
        if (window := self._rules().inbox.dedupe_window) and self.ledger.history.first("started") is None:
            self.ledger.refuse_resent(window)
        for dropped in list(self.work.dropped.iterdir()):
            files.remove(dropped)

    def _while_reading(self, busy: bool) -> None:
        if self.ledger.cancelled:
            raise Rejected(CANCELLED, f"{self.ledger.source}: cancelled while it was read; none of it was run")
        if not busy or self.ledger.lacking:
            self.ledger.look_for_room(time.monotonic())

    def _recover(self) -> Iterator[bool]:
        discard(self.work)  # before anything is written: it may be what the disk is full of
        resumed = self.ledger.history.first("started") is not None
        if resumed:
            self.ledger.state = BatchStatus.IN_PROGRESS
        self._source = ingest.Input(self.work)
        yield from busily(self.ledger.read_back(self.slot, self._source))
        self._twins = Twins(self.ledger, self._source, self.slot)
        yield from busily(self._twins.join())
        what = "resumed" if resumed else "accepted"
        self.ledger.history.note("resumed" if resumed else "started", time.time())
        counts = (len(self.queue), self.ledger.tally.done, self.ledger.tally.failed)
        fields = tell(Message.BATCH_ACCEPTED)
        self.ledger.log.info("%s: %s: %d requests, %d done, %d of them errors", self.name, what, *counts, extra=fields)
        if not resumed and self.ledger.accepted is not None:
            self.ledger.errors.say_faults(self.ledger.accepted, self._source, time.monotonic())

    def _run(self) -> Iterator[bool]:
        accepted = self.ledger.accepted
        assert accepted is not None and self._twins is not None
        self.ledger.state = BatchStatus.IN_PROGRESS
        self.read_control()
        if accepted.refused:
            reason = f"{accepted.faults} faulty lines and inbox.strict: nothing of this file was run"
            yield from self._close("batch_refused", reason)
        while self.queue.done < len(self.queue):
            if self.ledger.cancelled and self.ledger.state is not BatchStatus.CANCELLING:
                self.ledger.state = BatchStatus.CANCELLING
                self.ledger.history.note("cancelling", time.time())
                self.ledger.tell_soon()
            self.ledger.look_for_room(time.monotonic())
            self.queue.held = self.ledger.held or self.ledger.lacking > 0
            owed = not self.ledger.lacking and self._twins.pass_on(time.monotonic())
            if self.ledger.cancelled and self.queue.in_flight == 0 and not owed:
                yield from self._close(CANCELLED, "the batch was cancelled before this request was run")
            yield BUSY if owed else WAITING

    def _finish(self) -> Iterator[bool]:
        ledger, now = self.ledger, time.monotonic
        assert self._source is not None
        ledger.seal(now())
        ledger.history.note("finalizing", time.time())
        ledger.state = BatchStatus.FINALIZING
        ledger.log.info("%s: finalizing: answers and errors are put into the input's order", self.name)
        ledger.tell(now())
        final = ledger.final()
        receipt = lambda merged: ledger.receipt(final, merged)  # noqa: E731
        yield from busily(publish(self.work, lambda: ledger.published, ledger.outcomes, self._source, receipt))
        ledger.state = final
        ledger.tell(now())
        self._close_files()
        ledger.errors.sum_up(now(), final=True)
        counts = (ledger.tally.completed, ledger.tally.failed, time.time() - ledger.created)
        ended = tell(Message.BATCH_COMPLETED)
        ledger.log.info("%s: %s: %d answers, %d errors, %.0f s", self.name, final.value, *counts, extra=ended)

    def _reject(self, rejected: Rejected) -> None:
        ledger = self.ledger
        ledger.reject(rejected)
        write_receipt(ledger.published, ledger.receipt(ledger.state, {}))
        ledger.tell(time.monotonic())
        hand_back(self.work, ledger.published)
        if ledger.state is BatchStatus.FAILED:
            ledger.log.error("%s: failed: %s", self.name, rejected, extra=tell(Message.BATCH_FAILED))
        else:
            ledger.log.info("%s: cancelled: %s", self.name, rejected, extra=tell(Message.BATCH_COMPLETED))

    def _close(self, code: str, message: str) -> Iterator[bool]:
        """Give every request that has no outcome this error: the one door by which a batch ends early."""
        errors = (self._error(place, code, message) for place in self.queue.remaining())
        for chunk in in_slices(errors, _CLOSE_SLICE):  # a line may be megabytes
            self.ledger.append(chunk, time.monotonic())
            yield BUSY

    def _error(self, place: int, code: str, message: str) -> Outcome:
        assert self._source is not None
        fault = Fault(code, message, custom_id=orjson.loads(self._source.line(place)).get("custom_id"))
        line = error_line(request_id(self.work.id, place), fault, self._source.number(place))
        return Outcome(ticket(self.slot, place), line, is_error=True)

    # -- requests out, outcomes in

    def take(self, count: int, engine: EngineInfo, turn: int) -> list[Request]:
        """Return up to `count` requests for this engine, now in flight; `turn` is the first one's."""
        return self._requests(self.queue.take(count), engine, turn)

    def take_these(self, places: Iterable[int], engine: EngineInfo) -> list[Request]:
        """Return these requests, where they are left, now in flight."""
        return self._requests(self.queue.take_these(places), engine)

    def _requests(self, places: Sequence[int], engine: EngineInfo, turn: int = 0) -> list[Request]:
        source, id = self._source, self.work.id
        assert source is not None
        if engine != self._engine:
            self._engine, self.ledger.model = engine, engine.model
            self.ledger.history.note("engine", time.time(), engine=engine)
        return [
            Request(ticket(self.slot, place), request_id(id, place), source.number(place), source.line(place), at)
            for at, place in enumerate(places, turn)
        ]

    def settle(self, outcomes: Sequence[Outcome], now: float) -> None:
        """Record what the engine has answered."""
        assert self._twins is not None and self._source is not None
        self._twins.record(outcomes, now)
        self.ledger.errors.say(outcomes, self._source, now)

    def in_flight(self, most: int) -> list[tuple[int, str]]:
        """Return (line, custom_id) of the first `most` requests that the engine has; fewer where they are long."""
        named: list[tuple[int, str]] = []
        read = 0
        for place in itertools.islice(self.queue.with_engine(), most):
            if self._source is None or read > _NAMING_READS:
                break
            line = self._source.line(place)
            read += len(line)
            named.append((self._source.number(place), str(orjson.loads(line)["custom_id"])))
        return named

    def engine_died(self, died: EngineDied, max_deaths: int, in_flight: set[int]) -> None:
        """Take back what was in flight and add its tickets to `in_flight`; park after too many deaths in an hour."""
        returned = self.queue.give_back()
        in_flight.update(ticket(self.slot, place) for place in returned)
        if not returned:
            return
        ledger, now = self.ledger, time.time()
        ledger.history.note("engine_died", now, reason=died.reason, in_flight=len(returned))
        ledger.log.warning("%s: engine died with %d requests in flight; they run again", self.name, len(returned))
        deaths = ledger.history.count_since(max(now - _HOUR, ledger.history.last_at("resume")), "engine_died")
        if deaths >= max_deaths:
            reason = f"the engine died {deaths} times within an hour on this batch, last: {died.reason}"
            ledger.park(reason, now)
            self.read_control()
            ledger.log.error("%s: parked: %s", self.name, reason, extra=tell(Message.BATCH_PARKED))

    def convict(self, place: int, died: EngineDied) -> None:
        """Give a request that kills the engine its error, with the engine's last words."""
        assert self._source is not None and self._twins is not None
        number = self._source.number(place)
        custom_id = orjson.loads(self._source.line(place))["custom_id"]
        words = [line for line in died.log if "Error" in line or "error" in line][-3:] or list(died.log[-3:])
        message = f"this request, alone in the engine, ended it: {died.reason}. Its last words: {' | '.join(words)}"
        self._twins.record([self._error(place, "engine_crash", message)], time.monotonic())
        log, fields = self.ledger.log, tell(Message.REQUEST_ERROR, INBOX_LINE=number, INBOX_REQUEST=custom_id)
        log.error("%s: line %d kills the engine; it gets an error, the others go on", self.name, number, extra=fields)

    # -- control

    def control(self, verb: str) -> None:
        """Take note that a control file has been carried out."""
        self.ledger.history.note(verb, time.time())
        self.read_control()
        self.ledger.log.info("%s: %s", self.name, verb)

    def read_control(self) -> None:
        """The state is which files exist; this is its copy in memory."""
        self.ledger.cancelled = self.work.cancel.exists()
        self.ledger.paused = self.work.pause.exists()
        self.queue.priority = control.priority(self.work, self._rules().inbox.priorities, self.name)
        parked = self.work.parked
        self.ledger.parked = orjson.loads(parked.read_bytes())["reason"] if parked.exists() else None
        self.queue.held |= self.ledger.held  # at once; `_run` lets it go on
        self.ledger.tell_soon()

    # -- the end of the process

    def rest(self, now: float) -> None:
        """Before the daemon stops: everything that has arrived becomes durable and visible. Raises as `step` does."""
        if self.ledger.recovered:
            self.ledger.seal(now)
            self.ledger.tell(now)

    def let_go(self) -> None:
        """Let go of every open file and of the lease, wherever it stands; the batch on disk stays as it is."""
        self._steps.close()
        self._close_files()
        self.held.release()

    def _close_files(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None
        self.ledger.close()
