"""The memory that all batches together take for their requests: a bound, and who waits for it.

Pure: numbers in, yes or no out. A batch's own bounds (`inbox.max_lines`, `max_line_bytes`) hold for one file; hundreds
of them may be in work at a time.
"""

from __future__ import annotations

# Bytes a request, as measured with some hundred thousand lines a file: more than what lies in arrays (INTERNALS,
# invariant 15), because not all that was freed is given back.
WHILE_READ, IN_WORK = 96, 64


class Memory:
    """What each batch takes, by its number."""

    def __init__(self) -> None:
        self._taken: dict[int, int] = {}
        self._growing: set[int] = set()  # those that are being read, or wait to be
        self._beyond: int | None = None  # the one of them that may go on where none could

    def __len__(self) -> int:
        """Return the bytes that all batches take."""
        return sum(self._taken.values())

    def may_take(self, number: int, size: int, most: int) -> bool:
        """Say whether a batch may take so many bytes in all, and note that it does; else it is to ask again.

        One of them may go on where all that have some wait for more, or they would for ever. So all batches together
        take `most` at the most, and what one file needs beside that.
        """
        self._growing.add(number)
        have = self._taken.get(number, 0)
        if size > have and len(self) - have + size > most:
            if self._beyond is None and self._taken.keys() <= self._growing:
                self._beyond = number
            if self._beyond != number:
                return False
        self._taken[number] = size
        return True

    def has_grown(self, number: int) -> None:
        """A batch needs no more than it has: it runs, and gives all of it back at its end."""
        self._growing.discard(number)
        self._beyond = None if self._beyond == number else self._beyond

    def release(self, number: int) -> None:
        """A batch has ended, or has been let go."""
        self._taken.pop(number, None)
        self.has_grown(number)
