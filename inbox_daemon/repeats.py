"""Finding what repeats among millions of things, in a few bytes for each.

Pure. Says where a thing may have been before; whoever asks settles whether it is the same one.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable


class Repeats:
    """What one file's requests have for one thing, such as their custom_ids: finds repeats at 16 to 24 bytes a request.

    An open-addressed table of places. Hashes are Python's keyed SipHash, so nobody can craft collisions; equal hashes
    are still only a suspicion, which the caller settles by reading the earlier line.
    """

    def __init__(self) -> None:
        self._hashes = array("q")
        self._table = array("I", bytes(4 * 1024))

    def add(self, place: int, thing: Hashable | None) -> int | None:
        """Note what stands at `place`; return the earliest place where the hash is the same.

        Places come in order, each at most once; None, or leaving a place out, notes nothing.
        """
        self._hashes.extend([0] * (place - len(self._hashes)))
        key = hash(thing) if thing is not None else 0
        self._hashes.append(key)
        if thing is None:
            return None
        if 3 * len(self._hashes) > 2 * len(self._table):
            self._grow()
        slot, earlier = self._find(key)
        if earlier is None:
            self._table[slot] = place + 1
        return earlier

    def _find(self, key: int) -> tuple[int, int | None]:
        mask = len(self._table) - 1
        slot = key & mask
        while taken := self._table[slot]:
            if self._hashes[taken - 1] == key:
                return slot, taken - 1
            slot = (slot + 1) & mask
        return slot, None

    def _grow(self) -> None:
        old = self._table
        self._table = array("I", bytes(4 * 2 * len(old)))
        for taken in old:
            if taken:
                self._table[self._find(self._hashes[taken - 1])[0]] = taken
