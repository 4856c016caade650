"""The receipt held against the files: everything a batch has left is read again, and what does not agree is named.

Opens nothing for writing, and needs no daemon: a folder that was copied from the outbox is proven just as well.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson

from inbox_daemon.errors import Rejected, SpoolError
from inbox_daemon.layout import Published
from inbox_daemon.request.output import place_of_line
from inbox_daemon.spool import source
from inbox_daemon.spool.published import opened


@dataclass(frozen=True, slots=True)
class Proof:
    """What `verify` found. `problems` is empty when the receipt holds."""

    receipt: dict[str, Any]
    problems: list[str]


def verify(folder: Published, original: Path | None = None) -> Proof:
    """Read everything again and hold it against the receipt.

    Args:
        original: the file as it was dropped, or the same packed otherwise or unpacked; with it the input's hash is
            proven too.

    Raises:
        OSError: there is no receipt: the batch has not ended, or this is no outbox folder.
        SpoolError: it is damaged, or may not be read.
    """
    receipt = receipt_of(folder)
    problems: list[str] = []
    places: dict[int, str] = {}
    for name, claimed in receipt["files"].items():
        path = folder.dir / name
        digest, lines, size = hashlib.sha256(), 0, 0
        try:
            for line in _lines(path):
                digest.update(line)
                lines += 1
                size += len(line)
                if not name.startswith("retry"):  # of the input
                    _check_line(line, name, lines, places, problems)
        except OSError as error:
            problems.append(f"{path}: cannot be read ({error.strerror})")
            continue
        for what, found in (("lines", lines), ("bytes", size), ("sha256", digest.hexdigest())):
            if claimed[what] != found:
                problems.append(f"{path}: {what} is {found}, the receipt says {claimed[what]}")
    requests, answers, errors = receipt["input"]["requests"], receipt["answers"], receipt["errors"]
    if requests != answers + errors:
        problems.append(f"{requests} requests, but {answers} answers and {errors} errors")
    if len(places) != requests:
        problems.append(f"{requests} requests, but lines for {len(places)} of them")
    if receipt["input"].get("kept") and (problem := _is_no_copy(folder.input, receipt["input"])):
        problems.append(problem)
    if original is not None and (problem := _is_another(original, receipt["input"])):
        problems.append(problem)
    return Proof(receipt, problems)


def _is_no_copy(kept: Path, promised: Mapping[str, Any]) -> str | None:
    """Return what shows that the requests which lie beside the answers are not those that were accepted.

    None where they are, and where somebody has taken them away, which is everybody's right.
    """
    digest = hashlib.sha256()
    try:
        with opened(kept) as file:
            while block := file.read(source.BLOCK):
                digest.update(block)
    except FileNotFoundError:
        return None
    if digest.hexdigest() == promised.get("content_sha256"):
        return None
    return f"{kept}: sha256 is {digest.hexdigest()}, the receipt says {promised.get('content_sha256')}"


def _is_another(original: Path, promised: Mapping[str, Any]) -> str | None:
    """Return what shows that a file is not the one that was dropped; None where it is, byte by byte or unpacked."""
    digest, content = hashlib.sha256(), hashlib.sha256()
    try:
        fd = source.open_regular(original, follow=True)
        try:
            for block in source.blocks(fd, original, sys.maxsize, digest):
                content.update(block)
        finally:
            os.close(fd)
    except Rejected as rejected:
        return f"{original}: cannot be held against the receipt: {rejected}"
    said = promised.get("sha256"), promised.get("content_sha256")
    if digest.hexdigest() == said[0] or content.hexdigest() == said[1]:
        return None
    return f"{original}: sha256 is {digest.hexdigest()}, the receipt says {said[0]}, and unpacked {said[1]}"


def receipt_of(folder: Published) -> dict[str, Any]:
    """Read a receipt that has all that is held against it. Raises OSError, SpoolError."""
    path = folder.receipt
    with opened(path) as file:
        content = file.read()
    try:
        receipt: dict[str, Any] = orjson.loads(content)
        for part in receipt["files"].values():
            itemgetter("lines", "bytes", "sha256")(part)
        counts = [receipt["input"]["requests"], receipt["answers"], receipt["errors"]]
        if all(isinstance(count, int) for count in counts):
            return receipt
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise SpoolError(f"{path}: damaged, or no receipt of ours; copy it from the outbox again")


def _check_line(line: bytes, name: str, number: int, places: dict[int, str], problems: list[str]) -> None:
    place = place_of_line(line)
    if place is None:
        problems.append(f"{name}:{number}: not an output line of ours")
    elif place in places:
        problems.append(f"{name}:{number}: the request already has a line in {places[place]}")
    else:
        places[place] = name


def _lines(path: Path) -> Iterator[bytes]:
    with opened(path) as file:
        yield from file
