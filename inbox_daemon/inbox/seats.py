"""Who is taken first where not all can be in work at a time, and for whom there is a seat.

Pure. A seat is one of `inbox.max_claimed`; what is paused, parked or waits for a model of another daemon has none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_LONG_ENOUGH = 600.0  # seconds; who has waited so long is not shorter files' to overtake


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may be taken.

    Attributes:
        name: of the batch that it would become.
        size: in bytes, as it lies there.
        waited: seconds since it came.
    """

    path: Path
    name: str
    priority: int
    size: int
    waited: float


def in_order(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return who comes first: the higher priority; within one, who has waited for ten minutes, longest first, and then
    the shortest, because a batch of ten requests is not to wait for ten of a million.
    """
    return sorted(candidates, key=_turn)


def _turn(one: Candidate) -> tuple[int, bool, float]:
    patient = one.waited < _LONG_ENOUGH
    return -one.priority, patient, one.size if patient else -one.waited


def is_free(priority: int, seated: Iterable[int], most: int) -> bool:
    """Say whether there is a seat for a batch of this priority.

    Args:
        seated: the priorities of the batches that have one. Those with a lower priority take none away: who is urgent
            does not wait until one of them ends.
        most: seats for batches of any one priority and those above it.
    """
    return sum(other >= priority for other in seated) < most
