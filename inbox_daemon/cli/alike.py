"""Faults of a file by kind: a mistake that stands in every line is one mistake, said once and counted. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from inbox_daemon.records import Fault
from inbox_daemon.text import dumps

_IN_FULL = 3  # lines of a kind that are all listed; of more the first is, and these so many are named
_MOST = 100  # kinds that are told apart by their words; a file may have another wrong word in every line
_NUMBER = re.compile(r"\d[\d,.]*")


@dataclass(slots=True)
class Kind:
    """Faults that differ in numbers and in their custom_id alone.

    Attributes:
        first: the first of them, each with its line number; a few of `count`.
    """

    count: int = 0
    first: list[tuple[int, Fault]] = field(default_factory=list)


class Kinds:
    """All faults of one file, in the order of each kind's first line."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str | None, str], Kind] = {}

    def note(self, number: int, fault: Fault) -> None:
        key = (fault.code, fault.param, _words(fault))
        if key not in self._kinds and len(self._kinds) >= _MOST:
            key = (fault.code, None, "")
        kind = self._kinds.setdefault(key, Kind())
        kind.count += 1
        if len(kind.first) <= _IN_FULL:
            kind.first.append((number, fault))

    def sentences(self, file: object) -> Iterator[str]:
        """Say each kind: all of its lines where they are few, else the first one and how many more there are."""
        for kind in self._kinds.values():
            listed = kind.first if kind.count <= _IN_FULL else kind.first[:1]
            for number, fault in listed:
                yield f"{file}:{number}: {fault.code}: {fault.message}"
            if more := kind.count - len(listed):
                numbers = ", ".join(str(number) for number, _ in kind.first[1:])
                yield f"{file}: … and {more:,} lines more with this fault, first {numbers}"

    def objects(self) -> list[dict[str, Any]]:
        """Return the same for programs."""
        return [
            {
                "code": kind.first[0][1].code,
                "message": kind.first[0][1].message,
                "param": kind.first[0][1].param,
                "count": kind.count,
                "lines": [number for number, _ in kind.first],
            }
            for kind in self._kinds.values()
        ]


def _words(fault: Fault) -> str:
    message = fault.message
    if fault.custom_id:
        message = message.replace(dumps(fault.custom_id).decode(), "")
    return _NUMBER.sub("0", message)
