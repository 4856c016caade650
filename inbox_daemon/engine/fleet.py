"""All engines of this daemon: a slot for each, started and waited for together.

Owns how many slots there are, the count of starts, and the one descriptor that the loop waits on. Which request goes
to which engine is not its business, nor whether one is healthy.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from inbox_daemon.config.models import Model
from inbox_daemon.engine import Engine, Place
from inbox_daemon.engine.slot import Slot
from inbox_daemon.settings import Settings

Make = Callable[[Model, int, Place | None], Engine]  # of an engine's number and its place; None: it is the first


class Fleet:
    """The daemon's slots: one until the first engine has found how many there are to be, and then all of them.

    Args:
        make: starts an engine. May raise OSError.
    """

    def __init__(self, make: Make, settings: Settings) -> None:
        self._make, self._settings = make, settings
        self._places: tuple[str, ...] = ()  # the GPUs of each engine, once the first one has found them
        self._starts = 0
        self._poll: select.epoll | None = None
        self._awaited: dict[int, tuple[int, int]] = {}  # descriptor -> number of its engine, events
        self.slots = [self._slot(1)]

    def __iter__(self) -> Iterator[Slot]:
        return iter(self.slots)

    def ensure(self, wanted: bool, now: float) -> None:
        """Start engines where they are wanted and may start; end those that nobody has wanted for long enough."""
        self._grow()
        for slot in self.slots:
            if wanted and slot.may_start(now):
                self._starts += 1
                slot.begin(self._starts)
            slot.idle(wanted, self._settings.now.engine.idle_unload, now)

    def _grow(self) -> None:
        """Make the other slots, once the first engine has said where."""
        if not self._places and (places := self.slots[0].places):
            self._places = tuple(places)
            self.slots += [self._slot(number) for number in range(2, len(places) + 1)]
            for slot in self.slots if len(places) > 1 else ():
                slot.name = f"engine {slot.number}"

    def _slot(self, number: int) -> Slot:
        model = self._settings.models[0]
        return Slot(number, model.name, model.lanes, partial(self._started, number))

    def _started(self, number: int, start: int) -> Engine:
        places = self._places
        return self._make(
            self._settings.models[0], start, Place(number, len(places), places[number - 1]) if places else None
        )

    @property
    def proven(self) -> bool:
        """Whether an engine with these settings has ever been ready."""
        return any(slot.last_info for slot in self.slots)

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
