"""A batch whose log has been read back: what engines take of it, and what they give to it.

Made by recovery, gone with the end or when the batch is let go; between the two nothing of it is missing. Knows
engines only by what they answer, and neither the order of a batch's life nor what holds it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Generator, Iterable, Sequence

import orjson

from inbox_daemon.batch.books import Books
from inbox_daemon.batch.errorlog import ErrorLog
from inbox_daemon.batch.face import Face
from inbox_daemon.batch.twins import Twins
from inbox_daemon.config import Config
from inbox_daemon.errors import EngineDied
from inbox_daemon.journal import Message, tell
from inbox_daemon.records import EngineInfo, Fault, Outcome, Request, ticket
from inbox_daemon.request.output import error_line, request_id
from inbox_daemon.slices import in_slices
from inbox_daemon.spool.ingest import Input

_NAMING_READS = 16 << 20  # bytes of requests read to name those in flight
_CLOSE_SLICE = 0.01  # seconds of giving requests their error at a time, when a batch ends early


class Running:
    """One batch while requests of it can run. `now` is monotonic seconds throughout.

    Args:
        id, number: of the batch; its requests' output lines and tickets are made of them.

    Attributes:
        source: its requests.
        books: what of them is left, in flight, recorded.
    """

    def __init__(self, id: str, number: int, source: Input, books: Books, face: Face) -> None:
        self.source, self.books = source, books
        self.errors = ErrorLog(face)
        self._id, self._number, self._face = id, number, face
        self._twins = Twins(books, source, id, number)
        self._engines: set[int] = set()  # that have worked on it, as the history knows
        self.join, self.pass_on = self._twins.join, self._twins.pass_on
        books.busy.seconds, books.energy = face.history.spent

    # -- out

    def take(self, models: Collection[str], count: int, turn: int) -> list[Request]:
        """Return up to `count` requests for an engine of these models, now in flight; `turn` is the first one's."""
        lane = self.books.queue.lane(models)
        return self._requests(lane.take(count), turn) if lane else []

    def take_these(self, places: Iterable[int], turn: int) -> list[Request]:
        """Return these requests, where they are left, now in flight."""
        return self._requests(self.books.queue.take_these(places), turn)

    def _requests(self, places: Sequence[int], turn: int) -> list[Request]:
        source, id, number, model_of = self.source, self._id, self._number, self.books.queue.model_of
        self._mark(time.monotonic())
        return [
            Request(
                ticket(number, at), request_id(id, at), source.number(at), source.line(at), turn + later, model_of(at)
            )
            for later, at in enumerate(places)
        ]

    def note_engine(self, start: int, engine: EngineInfo, model: str | None) -> None:
        """Note which engine, the daemon's `start`-th, works on the batch: durable before an answer of it counts.

        Requests that name no model are this `model`'s from now on; None: the engine's is not for them.
        """
        if start not in self._engines:
            self._engines.add(start)
            self._face.worked_on_by(engine, model)
            if model is not None:
                self.books.queue.bind(model)

    # -- in

    def settle(self, outcomes: Sequence[Outcome], now: float) -> None:
        """Record what an engine has answered."""
        self.books.append(outcomes, now)
        self._mark(now)
        self._twins.owe(outcomes)
        self.errors.say(outcomes, self.source, now)

    def give_back(self, places: Sequence[int]) -> list[int]:
        """Take requests back that an engine had and has not answered; return those that were still in flight."""
        back = self.books.queue.give_back(places)
        self._mark(time.monotonic())
        return back

    def convict(self, place: int, died: EngineDied) -> None:
        """Give a request that kills the engine its error, with the engine's last words."""
        number = self.source.number(place)
        custom_id = orjson.loads(self.source.line(place))["custom_id"]
        words = [line for line in died.log if "Error" in line or "error" in line][-3:] or list(died.log[-3:])
        message = f"this request, alone in the engine, ended it: {died.reason}. Its last words: {' | '.join(words)}"
        crashed = [self._error(place, "engine_crash", message)]
        self.books.append(crashed, time.monotonic())
        self._twins.owe(crashed)
        log, name = self._face.log, self._face.name
        fields = tell(Message.REQUEST_ERROR, INBOX_LINE=number, INBOX_REQUEST=custom_id)
        log.error("%s: line %d kills the engine; it gets an error, the others go on", name, number, extra=fields)

    def close_early(self, code: str, message: str) -> Generator[None, None, None]:
        """Give every request that has no outcome this error: the one door by which a batch ends early."""
        errors = (self._error(place, code, message) for place in self.books.queue.remaining())
        for chunk in in_slices(errors, _CLOSE_SLICE):  # a line may be megabytes
            self.books.append(chunk, time.monotonic())
            yield

    def _error(self, place: int, code: str, message: str) -> Outcome:
        fault = Fault(code, message, custom_id=orjson.loads(self.source.line(place)).get("custom_id"))
        line = error_line(request_id(self._id, place), fault, self.source.number(place), status=None)
        return Outcome(ticket(self._number, place), line, is_error=True)

    # -- by the clock

    def keep(self, config: Config, now: float) -> None:
        """Sync and seal where they are due. Raises OSError, SpoolError."""
        if self.books.sync_is_due(config.results, now):
            self._sync(config)
        if self.books.seal_is_due(config.results, now):
            self.seal(config, now)

    def seal(self, config: Config, now: float) -> None:
        """Make everything that has arrived durable, and visible in the outbox. Raises OSError, SpoolError."""
        self._sync(config)
        self._face.say_sealed(self.books.seal(self._face.folder(), now))
        self._mark(now)
        self._face.history.note_spent(self.books.busy.seconds, self.books.energy)

    def _mark(self, now: float) -> None:
        self.books.busy.mark(now, self.books.queue.in_flight > 0)

    def _sync(self, config: Config) -> None:
        self._face.history.save()  # whose answers they are is known no later than that they count
        self.books.sync()
        self._face.say_progress(self.books, config.daemon.log_every)

    # -- for people

    def named(self, places: Iterable[int], most: int) -> list[tuple[int, str]]:
        """Return (line, custom_id) of the first `most` of these requests; of fewer where they are long."""
        found: list[tuple[int, str]] = []
        read = 0
        for place in itertools.islice(places, most):
            if read > _NAMING_READS:
                break
            line = self.source.line(place)
            read += len(line)
            found.append((self.source.number(place), str(orjson.loads(line)["custom_id"])))
        return found

    def close(self) -> None:
        self.source.close()
        self.books.close()
