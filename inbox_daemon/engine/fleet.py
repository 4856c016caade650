"""All engines of this daemon, of all its models: started and waited for together.

Owns the count of starts and the one descriptor that the loop waits on. Which request goes to which engine is not its
business, nor whether one is healthy, nor which model is to be loaded (`dispatch/rotation`).
"""

from __future__ import annotations

import itertools
import select
from collections.abc import Collection, Iterator
from contextlib import suppress

from inbox_daemon.config.models import Model
from inbox_daemon.engine.replicas import Make, Replicas
from inbox_daemon.engine.slot import Slot
from inbox_daemon.settings import Settings


class Fleet:
    """The daemon's slots, over all models.

    Args:
        make: starts an engine. May raise OSError.

    Attributes:
        models: the engines of each, by its name, in the settings' order.
        slots: in the order of their numbers.
        changes: how often slots have come or gone.
    """

    def __init__(self, make: Make, settings: Settings) -> None:
        self._settings = settings
        self._starts = 0
        self._poll: select.epoll | None = None
        self._awaited: dict[int, tuple[int, int]] = {}  # descriptor -> number of its engine, events
        self._numbers = itertools.count(1)
        self._make, self.changes = make, 0
        self.models: dict[str, Replicas] = {}
        self.slots: list[Slot] = []
        for model in settings.models:
            self.add(model, alone=not settings.several)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self.slots)

    def add(self, model: Model, *, alone: bool = False) -> None:
        """Have slots for one more model.

        Args:
            alone: settings of it that cannot be right end the daemon: there is no other model, nor was there.
        """
        self.models[model.name] = Replicas(model, next(self._numbers), self._make, alone)
        for replicas in self.models.values() if not alone else ():
            replicas.is_not_alone()
        self._changed()

    def remove(self, name: str) -> None:
        """Have no slots for this model any more. To be asked when nothing of its engines is left."""
        del self.models[name]
        self._changed()

    def _changed(self) -> None:
        self.changes += 1
        places = {model.name: place for place, model in enumerate(self._settings.models)}
        self.models = dict(sorted(self.models.items(), key=lambda entry: places.get(entry[0], len(places))))
        self.slots = sorted((slot for one in self.models.values() for slot in one), key=lambda slot: slot.number)
        for slot in self.slots if len(self.slots) > 1 else ():
            slot.name = f"engine {slot.number}"

    def ensure(self, wanted: Collection[str], now: float) -> None:
        """Start or wake engines of these models where they may; end those that nobody has wanted for long enough."""
        for name, replicas in self.models.items():
            if replicas.grow(self._numbers):
                self._changed()
            for slot in replicas:
                if name in wanted and slot.may_start(now):
                    self._starts += 1
                    slot.begin(self._starts)
                elif name in wanted and slot.asleep:
                    slot.wake(now)
                slot.idle(name in wanted, self._settings.now.engine.idle_unload, now)

    @property
    def failures(self) -> int:
        """How many loads in a row have failed in the slot that does best."""
        return min(slot.failures for slot in self.slots)

    # -- waiting

    def fileno(self) -> int | None:
        """A descriptor that is readable when an engine has said something, or takes more of what waits for it.

        None where an engine has none: it may have something at any time.
        """
        there = {slot.fileno(): slot for slot in self.slots if slot.occupied}
        if None in there or not there:
            return None
        return self._armed({fd: slot for fd, slot in there.items() if fd is not None})

    def _armed(self, there: dict[int, Slot]) -> int:
        if self._poll is None:
            self._poll = select.epoll()
        for descriptor, (start, _) in list(self._awaited.items()):
            if descriptor not in there or there[descriptor].start != start:
                del self._awaited[descriptor]  # its engine has gone, and with it the kernel's own note of it
                with suppress(OSError):
                    self._poll.unregister(descriptor)
        for descriptor, slot in there.items():
            events = select.EPOLLIN | (select.EPOLLOUT if slot.unsent else 0)
            known = self._awaited.get(descriptor)
            if known is None:
                self._poll.register(descriptor, events)
            elif known[1] != events:
                self._poll.modify(descriptor, events)
            self._awaited[descriptor] = (slot.start, events)
        return self._poll.fileno()

    # -- the end

    def end(self) -> None:
        """Let all engines go, with every process they started."""
        for slot in self.slots:
            slot.end()

    @property
    def ended(self) -> bool:
        return all(slot.ended for slot in self.slots)

    def close(self) -> None:
        if self._poll is not None:
            self._poll.close()
            self._poll = None
