"""One batch's outbox read once, into columns: a place in each array for every request that is compared.

Texts stay in the file: where each lies is kept, and `texts` reads those that are to be shown. Writes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from inbox_daemon.compare import answers
from inbox_daemon.compare.agreement import NONE
from inbox_daemon.compare.answers import Answer
from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import Published
from inbox_daemon.spool.published import opened

_SAMPLE = 1_000  # answers by which the fields of labels and numbers are found


@dataclass(slots=True)
class Joined:
    """The requests of all batches, by custom_id, and the labels that occur.

    Attributes:
        places: of each custom_id; the order is that of the first batch that has it.
        labels: the code of each label.
    """

    places: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)

    def place(self, custom_id: str) -> int:
        return self.places.setdefault(custom_id, len(self.places))

    def code(self, label: str) -> int:
        return self.labels.setdefault(label, len(self.labels))


@dataclass(slots=True)
class Columns:
    """One batch's answers.

    Attributes:
        offset: of the answer's line in results.jsonl, in bytes; -1 where the request has no answer.
        failed: places whose request ended as an error.
        unnamed: lines without a custom_id of their own (none, or one that came before), which nothing can be joined to.
        digest: equal where answers say the same (`Answer.digest`); 0 where there is nothing to compare.
        label: a code of `Joined.labels`, or -1. number: NaN where there is none.
    """

    folder: Published
    offset: NDArray[np.int64]
    failed: NDArray[np.bool_]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    characters: NDArray[np.int64]
    cut_off: NDArray[np.bool_]
    refusal: NDArray[np.bool_]
    form: NDArray[np.int8]
    digest: NDArray[np.uint64]
    label: NDArray[np.int64]
    number: NDArray[np.float64]
    unnamed: int = 0

    @property
    def answered(self) -> NDArray[np.bool_]:
        return self.offset >= 0


_ARRAYS = tuple(each.name for each in dataclasses.fields(Columns) if each.name not in ("folder", "unnamed"))
_FILL = {"offset": -1, "label": NONE, "number": np.nan}  # where a batch says nothing; 0 in all other arrays


def fields(folder: Published) -> tuple[str | None, str | None]:
    """Return which field of the answers holds labels, and which a number; None for each that there is not."""
    sample = [answer for _, (_, answer) in zip(range(_SAMPLE), _answers(folder), strict=False)]
    return answers.field_of_labels(sample), answers.field_of_numbers(sample)


def read(
    folders: Sequence[Published], label: str | None = None, number: str | None = None
) -> tuple[Joined, list[Columns]]:
    """Read batches, each once; every array has a place for each request that any of them has.

    Args:
        label: the field that holds labels; see `fields`. number: the one that holds a number.

    Raises:
        SpoolError: a batch has not ended, or a line is none of ours.
    """
    joined = Joined()
    sides = [_read(folder, joined, label, number) for folder in folders]
    for side in sides:
        _resize(side, len(joined.places))
    return joined, sides


def _read(folder: Published, joined: Joined, label: str | None, number: str | None) -> Columns:
    columns = _empty(folder)
    for offset, line in _lines(folder.results):
        place = _place(line, joined, columns)
        if place is None or columns.offset[place] >= 0:
            columns.unnamed += 1
            continue
        _put(columns, place, offset, answers.read(line["response"]["body"]), joined, label, number)
    for _, line in _lines(folder.errors):
        place = _place(line, joined, columns)
        if place is None or columns.failed[place] or columns.offset[place] >= 0:
            columns.unnamed += 1
        else:
            columns.failed[place] = True
    return columns


def _place(line: dict[str, Any], joined: Joined, columns: Columns) -> int | None:
    """Return the place of a line's request, for which there is room then; None where it has no custom_id."""
    if not isinstance(custom_id := line.get("custom_id"), str):
        return None
    place = joined.place(custom_id)
    if place >= len(columns.offset):
        _resize(columns, 2 * place + _SAMPLE)
    return place


def _resize(columns: Columns, size: int) -> None:
    for name in _ARRAYS:
        had = getattr(columns, name)[:size]
        array = np.full(size, _FILL.get(name, 0), had.dtype)
        array[: len(had)] = had
        setattr(columns, name, array)


def texts(columns: Columns, places: Sequence[int]) -> list[str]:
    """Return the texts of the answers at some places; "" where there is none."""
    found = []
    with opened(columns.folder.results) as file:
        for place in places:
            if columns.offset[place] < 0:
                found.append("")
                continue
            file.seek(int(columns.offset[place]))
            line = orjson.loads(file.readline())
            found.append(answers.read(line["response"]["body"]).text or "")
    return found


def said(folder: Published) -> Iterator[tuple[str, str]]:
    """Yield custom_id and text of each answer. Raises SpoolError where the batch has not ended."""
    for _, line in _lines(folder.results):
        yield str(line.get("custom_id")), answers.read(line["response"]["body"]).text or ""


def _empty(folder: Published) -> Columns:
    return Columns(
        folder,
        offset=np.empty(0, np.int64),
        failed=np.empty(0, np.bool_),
        input_tokens=np.empty(0, np.int64),
        output_tokens=np.empty(0, np.int64),
        characters=np.empty(0, np.int64),
        cut_off=np.empty(0, np.bool_),
        refusal=np.empty(0, np.bool_),
        form=np.empty(0, np.int8),
        digest=np.empty(0, np.uint64),
        label=np.empty(0, np.int64),
        number=np.empty(0, np.float64),
    )


def _put(
    to: Columns, place: int, offset: int, answer: Answer, joined: Joined, label: str | None, number: str | None
) -> None:
    to.offset[place] = offset
    to.input_tokens[place], to.output_tokens[place] = answer.input_tokens, answer.output_tokens
    to.cut_off[place], to.refusal[place] = answer.cut_off, answer.looks_like_a_refusal
    to.form[place] = answer.form
    if answer.text is not None:
        to.characters[place] = len(answer.text)
    to.digest[place] = answer.digest
    if label is not None and (found := answer.label(label)) is not None:
        to.label[place] = joined.code(found)
    if number is not None and (value := answer.number(number)) is not None:
        to.number[place] = value


def _answers(folder: Published) -> Iterator[tuple[int, Answer]]:
    for offset, line in _lines(folder.results):
        yield offset, answers.read(line["response"]["body"])


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each line with its offset. Raises SpoolError where there is no such file, or a line is none of ours."""
    offset = 0
    try:
        with opened(path) as file:
            for number, line in enumerate(file, 1):
                try:
                    yield offset, orjson.loads(line)
                except ValueError as error:
                    raise SpoolError(f"{path} line {number}: not JSON; copy it from the outbox again") from error
                offset += len(line)
    except FileNotFoundError as error:
        raise SpoolError(f"{path} is not there: the batch has not ended, or its files were taken away") from error
