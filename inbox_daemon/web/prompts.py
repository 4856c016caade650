"""What was asked: each request of a batch's input, by its custom_id. Reads one file, which stays open."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from inbox_daemon.web import cells
from inbox_daemon.web.cache import Segment
from inbox_daemon.web.cells import Message
from inbox_daemon.web.found import same


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request as it was sent; `line` is 1-based."""

    line: int
    body: Mapping[str, Any]

    def shown(self, most: int) -> tuple[Message, ...]:
        """Return its messages as text, each up to so many characters."""
        return cells.shown(self.body, most)


class Prompts:
    """The requests of one input.jsonl."""

    def __init__(self, segment: Segment) -> None:
        stack = ExitStack()
        weakref.finalize(self, stack.close)
        self._file = same(segment.source, stack)
        self._rows = segment.rows
        self._order = np.argsort(segment.rows["key"], kind="stable")

    def of(self, key: int) -> Prompt | None:
        """Return a request by its custom_id's hash (`segments.key_of`); None where it is not there, or is none."""
        if self._file is None or not len(self._rows):
            return None
        at = np.searchsorted(self._rows["key"], np.uint64(key), sorter=self._order)
        if at == len(self._order) or self._rows["key"][self._order[at]] != key:
            return None
        number = int(self._order[at])
        row = self._rows[number]
        try:
            line = orjson.loads(os.pread(self._file.fileno(), int(row["length"]), int(row["offset"])))
            body = line["body"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Prompt(number + 1, body) if isinstance(body, dict) else None
