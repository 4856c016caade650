"""One batch's life in order: enter, recover, run, finish. The same steps after a crash, each skipping what is done.

Owns the order and what control files and engine deaths mean for it. Touches the disk only through `spool`, `face` and
`books`, knows engines only by what they answer.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence

from inbox_daemon.batch.books import Books
from inbox_daemon.batch.face import Face
from inbox_daemon.batch.memory import Memory
from inbox_daemon.batch.needs import Needs
from inbox_daemon.batch.parking import Parking
from inbox_daemon.batch.queue import Queue
from inbox_daemon.batch.running import Running
from inbox_daemon.batch.state import State
from inbox_daemon.batch.status import Present, Tally
from inbox_daemon.errors import EngineDied, Rejected
from inbox_daemon.journal import Message, tell
from inbox_daemon.layout import Spool, Work
from inbox_daemon.records import BatchStatus
from inbox_daemon.request.reading import rules_of
from inbox_daemon.settings import Settings
from inbox_daemon.slices import busily
from inbox_daemon.spool import control, files, ingest, meant, resent
from inbox_daemon.spool.claim import Held
from inbox_daemon.spool.publish import decide, discard, is_decided, is_published, merge, publish
from inbox_daemon.spool.source import BLOCK

CANCELLED = "batch_cancelled"  # the code of what a batch that was cancelled did not run
_LONG_READING = 1.0  # seconds; a short file that is refused must not have cost an engine start

BUSY, WAITING = True, False  # what a step says: call me again at once, or when something has happened


class Life:
    """One batch, from its claim until its folder in work is gone.

    Args:
        number: of the batch in this process, part of its requests' tickets.
        totals: what all batches together have made durable in the life of this daemon.

    Attributes:
        running: from the moment on that its log has been read back, until it is let go.
        parking: when the daemon gives it up.
        over: nothing is left to do; the batch's folder is gone from work.
        had_errors: it has ended, and not every request has an answer.
    """

    def __init__(
        self, spool: Spool, held: Held, number: int, settings: Settings, totals: Tally, memory: Memory
    ) -> None:
        self.held, self.number = held, number
        self.state = State(held.work)
        self.face = Face(spool, held.work, self.state)
        self.over = self.had_errors = self._resumed = False
        self._spool, self._settings, self._totals = spool, settings, totals
        self.running: Running | None = None
        self._nothing, self._begun = Queue(0), time.monotonic()
        self._needs = Needs(number, self.state, self.face, settings, memory)
        self.parking = Parking(self.state, self.face)
        self._steps: Generator[bool, None, None] = self._live()

    @property
    def work(self) -> Work:
        return self.held.work

    @property
    def name(self) -> str:
        return self.face.name

    @property
    def queue(self) -> Queue:
        """What is left, in flight and done; empty until the log has been read back."""
        return self.running.books.queue if self.running else self._nothing

    @property
    def rests(self) -> bool:
        """Whether nothing of it runs until somebody says so: it takes no seat (`inbox/seats`) from others."""
        return self.running is not None and not self.queue.in_flight and self.state.rests

    @property
    def eta(self) -> float | None:
        """Seconds that it is expected to take still; None where nobody knows."""
        return self.running.books.eta() if self.running else None

    @property
    def wants_engine(self) -> bool:
        """Whether it has requests for an engine, or will most likely have some: a long file is read while it loads."""
        reading = self.running is None and self.face.has_name and not self.state.status.final
        long = reading and not self._settings.several and time.monotonic() - self._begun > _LONG_READING
        return long or any(lane.wants_engine and self._settings.serves(lane.model) for lane in self.queue.lanes)

    def step(self) -> bool:
        """Do the next bounded piece of work; say whether there is more to do at once. Raises OSError, SpoolError."""
        return next(self._steps, WAITING)

    # -- the life

    def _live(self) -> Generator[bool, None, None]:
        named = self.work.name.exists()  # so it is known to be no copy
        asked = None if named or self._settings.now.inbox.run_resends else resent.first(self._spool, self.work)
        if asked and (first := (yield from busily(asked))):
            resent.count(self._spool, self.work, first)
            self.face.say_sent_again(first["name"])
        else:
            yield from self._run_whole()
        self.held.remove()
        self.over = True

    def _run_whole(self) -> Iterator[bool]:
        if not is_decided(self.work):
            try:
                yield from self._enter()
            except Rejected as rejected:
                self._reject(rejected)
            else:
                running = yield from self._recover()
                yield from self._run(running)
                yield from self._finish(running)
        if not is_published(self.work):
            self._publish()

    def _enter(self) -> Iterator[bool]:
        face, state = self.face, self.state
        if self.work.accepted.exists():
            self._resumed = True
            state.accepted = ingest.load(self.work)
        face.folder()
        self.read_control()
        if said := face.history.first("rejected"):
            raise Rejected(said["code"], said["reason"])
        self._obey_what_waits()
        if state.accepted is None:
            face.log.info("%s: claimed", self.name, extra=tell(Message.BATCH_CLAIMED))
            with files.Writer(self.work.open_part, fresh=True) as part:
                reading = ingest.ingest(self.work, rules_of(self._settings.now), part, self._needs.fits_while_read)
                state.accepted = yield from busily(reading, self._while_reading)
        for dropped in list(self.work.dropped.iterdir()):
            face.keep_input(self._settings.now.results)
            files.remove(dropped)

    def _while_reading(self, busy: bool) -> None:
        if self.state.cancelled:
            raise Rejected(CANCELLED, f"{self.face.source}: cancelled while it was read; none of it was run")
        if not busy or self.state.lacking:
            self._needs.look_for_room(BLOCK)

    def _recover(self) -> Generator[bool, None, Running]:
        accepted, face, work = self.state.accepted, self.face, self.work
        assert accepted is not None
        discard(work)  # before anything is written: it may be what the disk is full of
        if resumed := self._resumed:
            self.state.status = BatchStatus.IN_PROGRESS
        while not self._needs.fits_in_work(accepted.requests):
            yield WAITING
        source = ingest.Input(work)
        models = [model or face.history.model for model in accepted.models or [""]]
        books = Books(work, source, models, self._totals)
        running = Running(work.id, self.number, source, books, face)
        try:
            yield from busily(books.read_back(self.number, face.folder()))
            yield from busily(running.join())
        except BaseException:
            running.close()
            raise
        self.running = running
        if face.history.first("started") is None:
            face.history.note("started", time.time())
        if resumed:
            face.history.note("resumed", time.time())
        face.say_accepted(books, "resumed" if resumed else "accepted")
        if not resumed:
            running.errors.say_faults(accepted, source, time.monotonic())
        return running

    def _run(self, running: Running) -> Iterator[bool]:
        accepted, state, queue = self.state.accepted, self.state, running.books.queue
        state.status = BatchStatus.IN_PROGRESS
        self.read_control()
        if accepted is not None and accepted.refused:
            reason = f"{accepted.faults} faulty lines and inbox.strict: nothing of this file was run"
            yield from busily(running.close_early("batch_refused", reason))
        while queue.done < len(queue):
            self.parking.write_down()
            if state.cancelled and state.status is not BatchStatus.CANCELLING:
                state.status = BatchStatus.CANCELLING
                self.face.history.note("cancelling", time.time())
                self.face.tell_soon()
            self._needs.look_for_room(running.books.bytes_to_come(), running.books)
            self._needs.look_for_model(queue)
            queue.held = state.held or state.lacking > 0
            owed = not state.lacking and running.pass_on(time.monotonic())
            if state.cancelled and queue.in_flight == 0 and not owed:
                yield from busily(running.close_early(CANCELLED, "the batch was cancelled before this request was run"))
            yield BUSY if owed else WAITING

    def _finish(self, running: Running) -> Iterator[bool]:
        face, books, state, now = self.face, running.books, self.state, time.monotonic
        running.seal(self._settings.now, now())
        face.history.note("finalizing", time.time())
        state.status, state.waits_for = BatchStatus.FINALIZING, None
        face.log.info("%s: finalizing: answers and errors are put into the input's order", self.name)
        face.tell_soon()  # where it takes longer than this pass of the loop
        final = state.final()  # what control files say from here on comes too late
        merged = yield from busily(merge(self.work, books.outcomes, running.source, state.named))
        decide(self.work, *face.last_words(books, final, merged))
        self._close_files()
        running.errors.sum_up(now(), final=True)

    def _reject(self, rejected: Rejected) -> None:
        """End a batch whose file is none; noted before anybody is told, since with room on the disk it might be one."""
        face, state = self.face, self.state
        state.rejected = {"code": rejected.code, "line": None, "message": str(rejected), "param": None}
        final = BatchStatus.CANCELLED if rejected.code == CANCELLED else BatchStatus.FAILED
        if face.history.first("rejected") is None:
            face.history.note("rejected", time.time(), code=rejected.code, reason=str(rejected))
            face.history.save()
        discard(self.work)
        decide(self.work, *face.last_words(None, final, {}))

    def _publish(self) -> None:
        """Hand over to the users what the batch has ended as, and say it; after a crash, what is left of that."""
        self.face.note_end(self._settings.now.batches.ended)
        receipt = publish(self.work, self.face.folder())
        self.state.status = BatchStatus(receipt["status"])
        self.had_errors = receipt["errors"] > 0 or receipt["problem"] is not None
        self.face.say_ended(receipt)

    # -- what others do to it

    def engine_died(self, died: EngineDied, places: Sequence[int]) -> None:
        """Take back what an engine had when it died; park after too many deaths in an hour."""
        if self.running and (returned := self.running.give_back(places)):
            self.parking.engine_died(died, returned, self._settings.now.engine.max_deaths)
            self.queue.held |= self.state.held

    def _obey_what_waits(self) -> None:
        """Carry out what came with its file and before it had its name: none of it runs first.

        Asks the disk, not the last scan: after a crash there is none yet.
        """
        for path, verb in meant.to_obey(self._spool, self.work, self.name, self.face.file):
            control.obey(path, verb, self)

    def control(self, verb: str) -> None:
        """Take note that a control file has been carried out."""
        if verb == "resume":
            self.parking.resumed()
        self.face.history.note(verb, time.time())
        self.face.history.save()  # since "resume", deaths are counted anew
        self.read_control()
        self.face.log.info("%s: %s", self.name, verb)

    def read_control(self) -> None:
        """Take what control files and settings say of it into memory."""
        self.parking.write_down()
        state, queue = self.state, self.queue
        before = (state.held, queue.priority)
        state.read()
        queue.priority = control.priority(self.work, self._settings.now.inbox.priorities, self.name)
        queue.held |= state.held  # at once; `_run` lets it go on
        if (state.held, queue.priority) != before:
            self.face.tell_soon()

    # -- by the clock, and the end of the process

    def tick(self, now: float, batches: int, present: Present) -> None:
        """Sync, seal and tell where they are due, of many `batches` more seldom. Raises OSError, SpoolError."""
        self.face.present = present
        if self.state.status.final:
            return
        if self.face.history.save_is_due(now):
            self.face.history.save()
        if self.running is not None:
            self.running.keep(self._settings.now, now)
        # From the name on, so that a long file's reading is seen; not while the log is read back, which counts what
        # becomes durable at its end.
        if (self.running or self.state.accepted is None) and self.face.is_due(now, batches):
            self.face.tell(self.running.books if self.running else None, now)

    def rest(self, now: float) -> None:
        """Before the daemon stops: everything that has arrived becomes durable and visible. Raises as `step` does."""
        if self.running is not None:
            self.running.seal(self._settings.now, now)
        self.face.rest(self.running.books if self.running else None)

    def let_go(self) -> None:
        """Let go of every open file and of the lease, wherever it stands; the batch on disk stays as it is."""
        self._steps.close()
        self._close_files()
        self.held.release()

    def _close_files(self) -> None:
        if self.running is not None:
            self.running.close()
            self.running = None
