"""Who gets how much: batches of an engine's room, engines of what there is to do.

Pure: numbers in, numbers out. Between batches the higher priority comes first, and within one each gets an equal share
of what is in flight.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from inbox_daemon.batch.queue import Lane


def share(room: int, lanes: Iterable[tuple[int, Lane]]) -> list[tuple[int, int]]:
    """Divide `room` among batches: to the highest priority first, and within one so that what each has in flight
    becomes as equal as can be.

    Args:
        room: how many more requests the engine takes now.
        lanes: (number, lane) of every batch that has one for the engine's model.

    Returns:
        (number, count) for each batch that gets something. A batch that arrives while another fills the engine gets
        all the room there is until it has caught up or has nothing left.
    """
    shares: list[tuple[int, int]] = []
    wanting = sorted(((-of.priority, of.in_flight, number, of.takeable) for number, of in lanes if of.takeable))
    for _, alike in groupby(wanting, key=lambda wants: wants[0]):
        if room > 0:
            given = _equal_shares(room, [(in_flight, number, takeable) for _, in_flight, number, takeable in alike])
            shares += given
            room -= sum(count for _, count in given)
    return shares


def _equal_shares(room: int, wanting: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    level = _level(room, wanting)
    shares = []
    for in_flight, number, takeable in wanting:
        count = min(takeable, max(0, level - in_flight), room)
        if count:
            shares.append((number, count))
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


def runs(loads: Sequence[int], count: int) -> list[tuple[int, int]]:
    """Divide `count` requests, in their order, into runs for engines: neighbours share prefixes and stay together.

    Args:
        loads: how many requests each engine has.

    Returns:
        (engine, length) of each run. Runs go to the engine with least, and are as long as its queue does not notice:
        a sixteenth of what it has or, where all are to be filled, of what it gets.
    """
    have = list(loads)
    shared: list[tuple[int, int]] = []
    while count:
        least = min(range(len(have)), key=have.__getitem__)
        length = min(count, 1 + max(have[least], count // len(have)) // 16) if len(have) > 1 else count
        have[least] += length
        count -= length
        shared.append((least, length))
    return shared
