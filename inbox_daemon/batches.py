"""Every batch in work: begun, found by number and by name, and let go where something of it fails.

Owns the numbers that tell batches of this process from each other, and how long a batch whose files failed is left
alone. Never decides what of them runs.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from inbox_daemon.batch.life import Life
from inbox_daemon.batch.memory import Memory
from inbox_daemon.batch.running import Running
from inbox_daemon.batch.status import Tally
from inbox_daemon.errors import SpoolError, told
from inbox_daemon.journal import Message, of_batch, tell
from inbox_daemon.layout import Spool, Work, batch_name
from inbox_daemon.setbacks import Setbacks
from inbox_daemon.settings import Settings
from inbox_daemon.spool import outbox
from inbox_daemon.spool.claim import Held

log = logging.getLogger(__name__)

_SUSPEND = 10.0  # seconds until a batch whose files failed is tried again

T = TypeVar("T")


class Batches:
    """The batches that this daemon holds.

    Args:
        setbacks: is told of batches whose files fail.

    Attributes:
        totals: what all batches together have made durable in the life of this daemon.
        suspended: batches, by id, that are not to be adopted before that time (monotonic seconds).
        some_errors: a batch has ended of which not every request has an answer.
    """

    def __init__(self, spool: Spool, settings: Settings, setbacks: Setbacks) -> None:
        self._spool, self._settings, self._setbacks = spool, settings, setbacks
        self._lives: dict[int, Life] = {}
        self._numbers = itertools.count(1)
        self.totals, self._memory = Tally(), Memory()
        self.suspended: dict[str, float] = {}
        self.some_errors = False

    def __iter__(self) -> Iterator[Life]:
        """Yield those that are held now; some may be let go meanwhile."""
        return iter(list(self._lives.values()))

    def __len__(self) -> int:
        return len(self._lives)

    def __contains__(self, number: int) -> bool:
        return number in self._lives

    def get(self, number: int) -> Life | None:
        return self._lives.get(number)

    def running(self, number: int) -> tuple[Life, Running] | None:
        """Return a batch whose requests can run; None where it was let go, or its log is not read back yet."""
        life = self._lives.get(number)
        return (life, life.running) if life and life.running else None

    def named(self, name: str) -> Life | None:
        """Return the batch of this name, or of this id."""
        return next((life for life in self._lives.values() if name in (life.name, life.work.id)), None)

    def about_to_be(self, name: str) -> bool:
        """Say whether a batch that has no name yet would have this one."""
        return any(not life.face.has_name and batch_name(life.face.file) == name for life in self._lives.values())

    def begin(self, held: Held) -> None:
        """Take a batch that has been claimed or adopted; from here on it has a number."""
        number = next(self._numbers)
        try:
            self._lives[number] = Life(self._spool, held, number, self._settings, self.totals, self._memory)
        except Exception as error:
            self._suspend(held.work.id, held.work.id, error)
            held.release()

    def safely(self, life: Life, action: Callable[[], T]) -> T | None:
        """Do something for one batch. What fails costs that batch a pause, and nobody else anything.

        Returns:
            what the action returns; None where it failed, or the batch has been let go before.
        """
        if life.number not in self._lives:
            return None
        try:
            return action()
        except Exception as error:
            self._suspend(life.work.id, life.name, error)
        self.let_go(life)
        return None

    def over(self, life: Life) -> None:
        """Take note that a batch has ended."""
        self.some_errors |= life.had_errors
        self._setbacks.over(life.work.id)
        self._memory.release(life.number)
        self._lives.pop(life.number, None)

    def let_go(self, life: Life) -> None:
        """Give a batch up as it lies on the disk; whoever adopts it goes on from there."""
        self._lives.pop(life.number, None)
        self._memory.release(life.number)
        life.let_go()

    def rest(self, now: float) -> None:
        """Before the daemon stops: let go of all of them, as they are. `now` is monotonic seconds."""
        for life in self:
            self.safely(life, partial(life.rest, now))
            life.let_go()
        for id in self.suspended:
            try:
                outbox.rest(self._spool, Work(self._spool.work / id))
            except (OSError, SpoolError) as error:
                log.warning("%s: its status cannot say that no daemon runs: %s", id, told(error))

    def _suspend(self, id: str, name: str, error: Exception) -> None:
        """Have a batch adopted again, from its files, some seconds later."""
        now = time.monotonic()
        self.suspended[id] = now + _SUSPEND
        adapter, fields = of_batch(log, name), tell(Message.BATCH_SUSPENDED)
        if isinstance(error, OSError | SpoolError):
            why = told(error)
            adapter.error("%s: suspended for %.0f s: %s", name, _SUSPEND, why, extra=fields)
        else:
            why = f"a fault of ours, {type(error).__name__}; the journal has the rest"
            adapter.error("%s: suspended for %.0f s by a fault of ours", name, _SUSPEND, exc_info=error, extra=fields)
        self._setbacks.failed(id, why, now, batch=name)
