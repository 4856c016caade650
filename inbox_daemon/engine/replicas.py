"""All engines of one model: one slot until the first engine has found how many there are to be, and then all of them.

Owns which GPUs each has, and when loading the model is given up. Whose turn it is among several models is not its
business, nor which request goes to which engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from inbox_daemon.config.models import Model
from inbox_daemon.engine import Engine, Place
from inbox_daemon.engine.slot import Slot

Make = Callable[[Model, int, Place | None], Engine]  # of an engine's number and its place; None: it is the first

_TRIES = 3  # loads in a row that failed, after which others are not kept waiting for this model any more


class Replicas:
    """The engines of one model.

    Args:
        number: of its first slot among all of the daemon's; `add` gives out the next ones.
        make: starts an engine. May raise OSError.
        alone: no other model is configured: settings that cannot be right end the daemon, not the model.

    Attributes:
        leaving: it gives way to another model: nothing more is handed to its engines.
        retired: the settings have it no more, or otherwise: no engine is started any more.
    """

    def __init__(self, model: Model, number: int, make: Make, alone: bool) -> None:
        self.model, self.leaving, self.retired = model, False, False
        self._make, self._alone = make, alone
        self._places: tuple[str, ...] = ()  # the GPUs of each engine, once the first one has found them
        self.slots = [self._slot(number, 1)]

    def __iter__(self) -> Iterator[Slot]:
        return iter(self.slots)

    def grow(self, numbers: Iterator[int]) -> list[Slot]:
        """Make the other slots, once the first engine has said where; return them."""
        if self._places or not (places := self.slots[0].places):
            return []
        self._places = tuple(places)
        added = [self._slot(next(numbers), place) for place in range(2, len(places) + 1)]
        self.slots += added
        return added

    def _slot(self, number: int, place: int) -> Slot:
        model = self.model
        return Slot(number, model.name, model.lanes, partial(self._started, place), self._alone)

    def _started(self, place: int, start: int) -> Engine:
        places = self._places
        return self._make(self.model, start, Place(place, len(places), places[place - 1]) if places else None)

    def is_not_alone(self) -> None:
        """Another model has come: settings that cannot be right end the daemon no more."""
        self._alone = False
        for slot in self.slots:
            slot.alone = False

    @property
    def proven(self) -> bool:
        """Whether an engine with these settings has ever been ready."""
        return any(slot.last_info for slot in self.slots)

    @property
    def failures(self) -> int:
        """How many loads in a row have failed in the slot that does best."""
        return min(slot.failures for slot in self.slots)

    @property
    def ready(self) -> bool:
        return any(slot.info for slot in self.slots)

    @property
    def loading(self) -> bool:
        """Whether an engine loads, or is on its way into sleep or out of it."""
        return any(slot.occupied and not slot.info and not slot.asleep for slot in self.slots)

    @property
    def asleep(self) -> bool:
        """Whether all engines that are here are asleep, and one is."""
        return self.occupied and all(slot.asleep for slot in self.slots if slot.occupied)

    @property
    def can_sleep(self) -> bool:
        return self.occupied and all(slot.can_sleep for slot in self.slots if slot.occupied)

    @property
    def weights(self) -> int | None:
        """The bytes that its engines' weights take together; None where nothing says so."""
        sizes = [slot.info.weights_bytes for slot in self.slots if slot.info]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    def sleep(self) -> None:
        """Have all engines give their GPUs' memory back. To be asked where they can, and have no request."""
        for slot in self.slots:
            if slot.occupied:
                slot.sleep()

    @property
    def occupied(self) -> bool:
        return any(slot.occupied for slot in self.slots)

    @property
    def ending(self) -> bool:
        """Whether processes of an engine that is no more may hold its GPU still."""
        return any(not slot.occupied and not slot.ended for slot in self.slots)

    @property
    def not_before(self) -> float:
        """When the next load may be tried, in monotonic seconds."""
        return min(slot.not_before for slot in self.slots)

    @property
    def given_up(self) -> str | None:
        """Why it is not loaded any more until somebody says so: no other try helps, or many have not; else None."""
        for slot in self.slots:
            if slot.hopeless:
                return slot.hopeless
        died = next((slot.last_death for slot in self.slots if slot.last_death), None)
        if self.failures < _TRIES or died is None:
            return None
        return f"{self.failures} loads in a row failed, the last one: {died.reason}"

    def try_again(self, times: int = _TRIES) -> None:
        """Forget that it was given up: it may be loaded so many times more."""
        for slot in self.slots:
            slot.forgive(_TRIES - times)

    def end(self) -> None:
        """Let all engines go, with every process they started."""
        for slot in self.slots:
            slot.end()

    @property
    def ended(self) -> bool:
        """Whether nothing of its engines is left, nor what they held of their GPUs."""
        return sum(not slot.ended for slot in self.slots) == 0  # each is asked: that is how it finds out
