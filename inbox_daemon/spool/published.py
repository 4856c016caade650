"""The reading half of the spool: what is published, for every view. Opens nothing for writing, ever.

Everything here may be replaced or removed while it is read; what has gone is left out, never an error.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson

from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import Published, Spool, batch_name, is_batch_file, is_sidecar, numbered
from inbox_daemon.request.line import place_of_line
from inbox_daemon.spool.daemons import STALE_AFTER


@contextmanager
def permitted(path: Path, to: str = "read") -> Iterator[None]:
    """Where the system refuses what is done in here with `path`, the SpoolError says who has the right to it."""
    try:
        yield
    except PermissionError as error:
        why = f"{path}: you may not {to} it; a service's spool is for the group inbox-submit"
        raise SpoolError(f"{why}: sudo usermod -aG inbox-submit YOU, then log in again") from error


def there(spool: Spool) -> Spool:
    """Return the spool. Raises SpoolError where there is no such folder, which is something else than an empty one."""
    if not is_folder(spool.root):
        why = "is no folder" if exists(spool.root) else "is not there: no daemon has run on this spool"
        raise SpoolError(f"{spool.root} {why}; name another with --spool")
    return spool


def exists(path: Path) -> bool:
    """Say whether anything lies at `path`. Raises SpoolError where that may not be known."""
    return _mode(path) is not None


def is_folder(path: Path) -> bool:
    """Say whether a folder lies at `path`. Raises SpoolError where that may not be known."""
    return stat.S_ISDIR(_mode(path) or 0)


def _mode(path: Path) -> int | None:
    with permitted(path):  # Path.exists() says no where it may not look, from Python 3.14 on
        try:
            return path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None


def status(spool: Spool, name: str) -> dict[str, Any] | None:
    """Return the batch's `status.json`, or None where there is none. Raises SpoolError where it may not be read."""
    path = Published(spool.outbox / name).status
    with permitted(path):
        return _content(path)


def twin(spool: Spool, name: str, sha256: str, id: str, since: float) -> str | None:
    """Return the name of a batch of the same file name and bytes, claimed at or after `since`, that is not `id`.

    One that failed or was cancelled is no twin: to drop it again is to ask for it to be run.
    """
    for attempt in itertools.count(1):
        other = _read(Published(spool.outbox / numbered(name, attempt)).status)
        if other is None:
            return None
        same = other.get("input_sha256") == sha256 and other["id"] != id and other["created_at"] >= since
        if same and other["status"] not in ("failed", "cancelling", "cancelled"):
            return str(other["name"])
    raise AssertionError("unreachable")


def made_of(spool: Spool, file: str, mark: str) -> dict[str, Any] | None:
    """Return the status of the batch that a file in the inbox became, by its `source.mark`; None where there is none.

    Its name does not tell: another file of the same name may have been claimed just before and have no name yet, and
    which one gets it is seen only in `outbox`.
    """
    wanted = batch_name(file)
    for folder in _children(spool.outbox):
        if folder.name == wanted or re.fullmatch(re.escape(wanted) + r"\.\d+", folder.name):
            found = _read(Published(folder).status)
            if found is not None and found.get("input_mark") == mark:
                return found
    return None


def statuses(spool: Spool) -> list[dict[str, Any]]:
    """Return every batch's `status.json`, oldest first."""
    found = [read for folder in _children(spool.outbox) if (read := _read(Published(folder).status))]
    return sorted(found, key=lambda s: (s.get("created_at", 0), s.get("id", "")))


def daemons(spool: Spool) -> list[dict[str, Any]]:
    """Return what each daemon says of itself; `alive` says whether it said so lately."""
    found = [read for path in _children(spool.daemons) if path.suffix == ".json" and (read := _read(path))]
    return [daemon | {"alive": time.time() - daemon.get("at", 0) < STALE_AFTER} for daemon in found]


def in_inbox(spool: Spool, name: str) -> bool:
    """Say whether a file that would become this batch lies in the inbox."""
    return name in to_come(spool)


def files_to_come(spool: Spool, name: str) -> list[Path]:
    """Return the files in the inbox that would become this batch, and the sidecars by which they say so."""
    try:
        files = sorted(os.listdir(spool.inbox))  # noqa: PTH208
    except OSError:
        return []
    ours = [file for file in files if is_batch_file(file) and batch_name(file) == name]
    return [spool.inbox / file for file in files if file in ours or (is_sidecar(file) and Path(file).stem in ours)]


def to_come(spool: Spool) -> set[str]:
    """Return the names of the batches whose files lie in the inbox; none where it cannot be read."""
    with suppress(OSError):
        return _to_come(spool)
    return set()


def is_to_come(spool: Spool, name: str) -> bool:
    """Say what `in_inbox` says to somebody who would take its no for an answer.

    Raises:
        SpoolError: the inbox may not be read, so nobody knows.
    """
    try:
        with permitted(spool.inbox):
            return name in _to_come(spool)
    except OSError:
        return False


def _to_come(spool: Spool) -> set[str]:
    return {batch_name(file) for file in os.listdir(spool.inbox) if is_batch_file(file)}  # noqa: PTH208


def waiting(spool: Spool) -> dict[str, str]:
    """Return why files in the inbox are not taken yet, by file name."""
    return {name: why for daemon in daemons(spool) if daemon["alive"] for name, why in daemon["waiting"].items()}


def _children(folder: Path) -> list[Path]:
    try:
        with permitted(folder):
            return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError:
        return []


def _read(path: Path) -> dict[str, Any] | None:
    with suppress(PermissionError):
        return _content(path)
    return None


def _content(path: Path) -> dict[str, Any] | None:
    """Return what a file says; None where there is none, or nothing of ours. Raises PermissionError."""
    try:
        value = orjson.loads(path.read_bytes())
    except PermissionError:
        raise
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


@dataclass(frozen=True, slots=True)
class Proof:
    """What `verify` found. `problems` is empty when the receipt holds."""

    receipt: dict[str, Any]
    problems: list[str]


def verify(published: Published, original: Path | None = None) -> Proof:
    """Read everything again and hold it against the receipt.

    Args:
        original: the file as it was dropped; with it the input's hash is proven too.

    Raises:
        OSError: there is no receipt: the batch has not ended, or this is no outbox folder.
        SpoolError: it is damaged, or may not be read.
    """
    receipt = _receipt(published.receipt)
    problems: list[str] = []
    places: dict[int, str] = {}
    for name, claimed in receipt["files"].items():
        path = published.dir / name
        digest, lines, size = hashlib.sha256(), 0, 0
        try:
            for line in _lines(path):
                digest.update(line)
                lines += 1
                size += len(line)
                if name != "retry.jsonl":
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
    promised = receipt["input"].get("sha256")
    if original is not None and (found := _sha256(original)) != promised:
        problems.append(f"{original}: sha256 is {found}, the receipt says {promised}")
    return Proof(receipt, problems)


def _receipt(path: Path) -> dict[str, Any]:
    """Read a receipt that has all that is held against it. Raises OSError, SpoolError."""
    with permitted(path):
        content = path.read_bytes()
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
    with path.open("rb") as file:
        yield from file


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
