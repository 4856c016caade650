"""Who gets how much of an engine's room: the higher priority first, equal shares of what is in flight within one.

Pure: numbers in, numbers out.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from inbox_daemon.batch.queue import Queue


def share(room: int, queues: Iterable[tuple[int, Queue]]) -> list[tuple[int, int]]:
    """Divide `room` among batches: to the highest priority first, and within one so that what each has in flight
    becomes as equal as can be.

    Args:
        room: how many more requests the engine takes now.
        queues: (slot, queue) of every batch that runs.

    Returns:
        (slot, count) for each batch that gets something. A batch that arrives while another fills the engine gets
        all the room there is until it has caught up or has nothing left.
    """
    shares: list[tuple[int, int]] = []
    wanting = sorted(((-q.priority, q.in_flight, slot, q.takeable) for slot, q in queues if q.takeable))
    for _, alike in groupby(wanting, key=lambda wants: wants[0]):
        if room > 0:
            given = _equal_shares(room, [(in_flight, slot, takeable) for _, in_flight, slot, takeable in alike])
            shares += given
            room -= sum(count for _, count in given)
    return shares


def _equal_shares(room: int, wanting: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    level = _level(room, wanting)
    shares = []
    for in_flight, slot, takeable in wanting:
        count = min(takeable, max(0, level - in_flight), room)
        if count:
            shares.append((slot, count))
            room -= count
    return shares


def _level(room: int, wanting: list[tuple[int, int, int]]) -> int:
    """Return the smallest number in flight up to which the batches can be filled using the whole room."""
    low, high = 0, room + max(in_flight for in_flight, _, _ in wanting)
    while low < high:
        middle = (low + high) // 2
        if sum(min(t, max(0, middle - i)) for i, _, t in wanting) >= room:
            high = middle
        else:
            low = middle + 1
    return low
