"""Where each request of a file lies, and how requests stand to each other. Pure: reads and writes no file itself."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from typing import BinaryIO

MOST_MODELS = 256  # of one file: a byte has that many numbers


class Index:
    """Where each request lies in `input.jsonl`: 12 bytes a request, 21 at most.

    Attributes:
        offsets, numbers: where its line begins, and its 1-based number.
        order: the places in the order to compute them; empty: as they stand.
        twins: for each place the next one of the same request, 0 at the chain's end; empty where there is none. The
            chain begins at the first of them, which is computed; no other place's chain leads to it.
        models: for each place the number of the model that is to answer it; empty where that is one for all.
    """

    def __init__(self) -> None:
        self.offsets = array("Q")
        self.numbers = array("I")
        self.order = array("I")
        self.twins = array("I")
        self.models = array("B")

    def __len__(self) -> int:
        return len(self.offsets)

    def add(self, offset: int, number: int) -> None:
        self.offsets.append(offset)
        self.numbers.append(number)
        if self.twins:
            self.twins.append(0)
        if self.models:
            self.models.append(0)

    def end(self, place: int, otherwise: int) -> int:
        """Return where the next request begins; `otherwise` where this is the last one."""
        return self.offsets[place + 1] if place + 1 < len(self.offsets) else otherwise

    def is_for(self, place: int, model: int) -> None:
        """Note which model is to answer the request at `place`; all that are not noted are for the first."""
        if not self.models:
            self.models = array("B", bytes(len(self)))
        self.models[place] = model

    def join(self, first: int, place: int) -> None:
        """Note that the request at `place` is the same as the one at `first`."""
        if not self.twins:
            self.twins = array("I", bytes(4 * len(self)))
        self.twins[place] = self.twins[first]
        self.twins[first] = place

    def twins_of(self, place: int) -> Iterator[int]:
        """Yield the places of the same request in this one's chain, itself left out."""
        while self.twins and (place := self.twins[place]):
            yield place

    @property
    def _arrays(self) -> tuple[array[int], ...]:
        return self.offsets, self.numbers, self.order, self.twins, self.models

    @classmethod
    def read(cls, file: BinaryIO) -> Index:
        """Return the index that `written` was made of. Columns that an earlier version did not have are empty."""
        index = cls()
        for column in index._arrays:
            column.fromfile(file, int.from_bytes(file.read(8), sys.byteorder))
        return index

    def written(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes of the index: each column's length, then the column."""
        for column in self._arrays:
            yield len(column).to_bytes(8, sys.byteorder)
            yield memoryview(column).cast("B")
