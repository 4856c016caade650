"""What the ids of files and batches say, and which ids are none. Pure.

An upload is file-HEX. A batch is batch_HEX: 16 digits where it was made by API, 22 where its file was dropped. What
lies in a batch's folder in the outbox has an id made of the batch's: file-HEX-results, -errors, -retry, -input.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from inbox_daemon.layout import is_ours

RESULTS, ERRORS, RETRY, INPUT = "results", "errors", "retry", "input"

_BATCH = re.compile(r"batch_([0-9a-f]{16}|[0-9a-f]{22})")
_IN_NAME = re.compile(r"\.batch_[0-9a-f]{16}(?=@|$)")
_FILE = re.compile(r"file-([0-9a-f]{16}|[0-9a-f]{22})(?:-(results|errors|retry|input))?")


@dataclass(frozen=True, slots=True)
class Output:
    """A file in the outbox, by its batch and what it is there."""

    batch: str
    kind: str


def is_batch(id: str) -> bool:
    return _BATCH.fullmatch(id) is not None


def output_of(id: str) -> Output | None:
    """Return which file of which batch an id means; None where it means none."""
    match = _FILE.fullmatch(id)
    return Output(f"batch_{match[1]}", match[2]) if match and match[2] else None


def output_id(batch: str, kind: str) -> str:
    """Return the id of one file of a batch."""
    return f"file-{batch.removeprefix('batch_')}-{kind}"


def called(name: str) -> str:
    """Return a batch's name as its sender called it: without the id that a batch made by API has in its name."""
    return _IN_NAME.sub("", name)


def kind_of(filename: str) -> str | None:
    """Return which kind of file one in a batch's folder is; None where it has no id."""
    if filename in ("results.jsonl", "errors.jsonl", "input.jsonl"):
        return filename.removesuffix(".jsonl")
    return RETRY if filename.startswith(RETRY) and filename.endswith(".jsonl") and is_ours(filename) else None
