"""Whether a dropped file is whole: nobody writes to it any more, and it does not end in the middle.

Asks the kernel and reads; changes nothing. A file that was cut exactly at a newline looks whole to all
of this but a sidecar.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import signal
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import orjson

from inbox_daemon.errors import Rejected
from inbox_daemon.layout import AGAIN, SIDECARS
from inbox_daemon.request.line import too_complex
from inbox_daemon.spool import source
from inbox_daemon.text import shown

_TAIL = 1 << 16
_LONGEST = 1 << 25  # bytes; a last line longer than that is not read to see whether it ends


def has_writer(path: Path) -> bool | None:
    """Ask the kernel whether anybody has the file open for writing; None where it will not say.

    F_SETLEASE with F_RDLCK is refused with EAGAIN while there is a writer (fcntl(2)); it needs the file's owner or
    CAP_LEASE. Whoever opens the file for writing while the lease is held makes the kernel send its holder a signal:
    SIGIO, which ends a process, unless another is named.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # ignored by default
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(fd)
    return False


def sidecars_of(path: Path) -> list[Path]:
    """Return the files beside this one by which its sender says something of it."""
    found = []
    for suffix in SIDECARS:
        sidecar = path.with_name(path.name + suffix)
        with suppress(OSError):  # not there, or a name that would be too long to be there
            if stat.S_ISREG(sidecar.lstat().st_mode):
                found.append(sidecar)
    return found


def vouching_for(path: Path) -> list[Path]:
    """Return the sidecars that mean this very file.

    A `.done` that is older came late for an earlier file of this name, or before this one was whole. A `.sha256` may
    well come first: it is held against the content.
    """
    said = [one for one in sidecars_of(path) if one.suffix != AGAIN]
    return [one for one in said if one.suffix == ".sha256" or arrived_at(one) >= arrived_at(path)]


def arrived_at(path: Path) -> int:
    """Return when a file became what it is, in nanoseconds (ctime, because uploads set mtime); 0 where it is gone."""
    try:
        return path.lstat().st_ctime_ns
    except FileNotFoundError:
        return 0


def read_to_see(path: Path, limit: int) -> Iterator[int]:
    """Read as much of the file as shows whether it is whole; raises Rejected("incomplete") where it is not.

    Yields, after each block, the bytes that unpacking it keeps in memory.

    What a sidecar says is believed: `.done` as it is, `.sha256` once the content has that hash. Without one, a plain
    file is whole when it ends with a newline or with a JSON object, a compressed one when its stream ends. A file with
    more than `limit` bytes of content is not read any further: ingest will refuse it.
    """
    sidecar = next(iter(vouching_for(path)), None)
    fd = source.open_regular(path)
    try:
        size = os.fstat(fd).st_size
        if sidecar is not None and sidecar.suffix == ".sha256" and size <= limit:
            yield from _hold_against(sidecar, fd)
        elif path.name.endswith(".jsonl") and size <= limit:
            tail = os.pread(fd, _TAIL, max(0, size - _TAIL))
            cut = tail and not tail.endswith(b"\n") and not _is_object(_last_line(fd, size, tail))
            if cut and sidecar is None:
                source.refuse_other_kinds(fd, path)  # whose rest would not help
                told = f"where this is all of it, `touch {shown(path.name)}.done` beside it"
                raise Rejected("incomplete", f"waiting for the rest: it ends in the middle of a line; {told}")
        elif sidecar is None and size <= limit:
            unpacked = source.blocks(fd, path, limit)
            for _ in unpacked:
                yield unpacked.kept
    finally:
        os.close(fd)


def _hold_against(sidecar: Path, fd: int) -> Iterator[int]:
    try:
        promised = _hash_in(_beginning(sidecar))
    except (Rejected, OSError) as error:  # says nothing of the file itself, whose upload may go on
        raise Rejected("incomplete", f"waiting for a sidecar that can be read: {error}") from error
    hasher = hashlib.sha256()
    while block := os.read(fd, source.BLOCK):
        hasher.update(block)
        yield 0
    if promised is None:
        how = f"write it with `sha256sum FILE > {shown(sidecar.name)}`, or remove it"
        raise Rejected("incomplete", f"waiting for a hash: {shown(sidecar.name)} holds none; {how}")
    if promised != hasher.hexdigest():
        differs = f"its content has not the hash that {shown(sidecar.name)} says"
        raise Rejected("incomplete", f"waiting for the rest: {differs}")


def _hash_in(text: bytes) -> str | None:
    """Return the SHA-256 in what `sha256sum` writes: before an odd file name a backslash, with --tag at the end."""
    if found := re.match(rb"\\?([0-9a-fA-F]{64})\b|SHA256 \(.*\) = ([0-9a-fA-F]{64})\b", text):
        return (found[1] or found[2]).decode().lower()
    return None


def _beginning(path: Path) -> bytes:
    fd = source.open_regular(path)
    try:
        return os.read(fd, _TAIL)
    finally:
        os.close(fd)


def _last_line(fd: int, size: int, tail: bytes) -> bytes:
    length = len(tail)
    while b"\n" not in tail and length < min(size, _LONGEST):
        length = min(size, 4 * length, _LONGEST)
        tail = os.pread(fd, length, size - length)
    return tail.rsplit(b"\n", 1)[-1]


def _is_object(line: bytes) -> bool:
    try:
        return not too_complex(line) and isinstance(orjson.loads(line), dict)
    except ValueError:
        return False
