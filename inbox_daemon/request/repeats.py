"""Finding what repeats among millions of things, in a few bytes for each.

Pure. Says where a thing may have been before; whoever asks settles whether it is the same one.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable

_TABLES = 128  # each grows by itself: one for all would keep the loop waiting for a second at a million requests


class Repeats:
    """What one file's requests have for one thing, such as their custom_ids: finds repeats at 16 to 24 bytes a request.

    Open-addressed tables of places. Hashes are Python's keyed SipHash, so nobody can craft collisions; equal hashes
    are still only a suspicion, which the caller settles by reading the earlier line.
    """

    def __init__(self) -> None:
        self._hashes = array("q")
        self._tables = [array("I", bytes(4 * 16)) for _ in range(_TABLES)]
        self._taken = [0] * _TABLES

    def add(self, place: int, thing: Hashable | None) -> int | None:
        """Note what stands at `place`; return the earliest place where the hash is the same.

        Places come in order, each at most once; None, or leaving a place out, notes nothing.
        """
        self._hashes.extend([0] * (place - len(self._hashes)))
        key = hash(thing) if thing is not None else 0
        self._hashes.append(key)
        if thing is None:
            return None
        number = key % _TABLES
        table = self._tables[number]
        slot, earlier = self._find(table, key)
        if earlier is None:
            table[slot] = place + 1
            self._taken[number] += 1
            if 3 * self._taken[number] > 2 * len(table):
                self._tables[number] = self._grown(table)
        return earlier

    def _find(self, table: array[int], key: int) -> tuple[int, int | None]:
        mask = len(table) - 1
        slot = key // _TABLES & mask
        while taken := table[slot]:
            if self._hashes[taken - 1] == key:
                return slot, taken - 1
            slot = (slot + 1) & mask
        return slot, None

    def _grown(self, table: array[int]) -> array[int]:
        larger = array("I", bytes(4 * 2 * len(table)))
        for taken in table:
            if taken:
                larger[self._find(larger, self._hashes[taken - 1])[0]] = taken
        return larger
