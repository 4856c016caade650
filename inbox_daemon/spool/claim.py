"""Who works on what: claiming a dropped file, adopting a batch whose daemon is gone, letting go.

The flock on `work/ID` is the lease: held while its daemon lives, free the moment it does not. Decides nothing about
which file is ready (`inbox`) and never opens what was dropped (ingest).
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from inbox_daemon.errors import SpoolError, told
from inbox_daemon.layout import Spool, Work
from inbox_daemon.spool import complete, files, meant


def prepare(spool: Spool) -> None:
    """Make the spool's folders where they are missing and prove that files can be renamed between them.

    Raises:
        SpoolError: when a folder cannot be made or written, or is on another file system or mount.
    """
    try:
        spool.root.mkdir(parents=True, exist_ok=True)
        for folder, mode in ((spool.inbox, 0o755), (spool.outbox, 0o755), (spool.work, 0o700), (spool.daemons, 0o755)):
            files.ensure_dir(folder, mode)
    except OSError as error:
        raise SpoolError(f"{error.filename}: cannot be made ({told(error)}); see tools/install") from error
    lock = os.open(spool.work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _prove_locks(spool.work, lock)  # and holding it: whatever probe lies there, a killed start has left it
        _prove_one_file_system(spool)
    finally:
        os.close(lock)


def _prove_locks(folder: Path, fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as error:
        raise SpoolError(
            f"{folder}: it cannot be locked ({error.strerror}), and by locks daemons know whose a batch is. Put the "
            "spool on a local disk, or mount this file system with locks (NFS: local_lock=flock, and one host only)."
        ) from error


def _prove_one_file_system(spool: Spool) -> None:
    """Move a folder about. Its name is one that nobody can have laid in the inbox, where others may write."""
    made = spool.work / f".probe-{secrets.token_hex(8)}"
    for folder in (spool.outbox, spool.inbox):
        try:
            for left in [*spool.work.glob(".probe*"), *folder.glob(".probe*")]:
                with suppress(OSError):  # not empty, or no folder: none of ours
                    left.rmdir()
            made.mkdir(0o700)
            made.rename(folder / made.name)
            (folder / made.name).rmdir()
        except OSError as error:
            with suppress(OSError):
                made.rmdir()
            raise SpoolError(
                f"{folder}: a folder of {spool.work} cannot be moved here ({told(error)}). "
                "inbox, outbox and work must be writable, have room and lie on one file system and one mount."
            ) from error


class Held:
    """A batch that is ours alone while this object lives."""

    def __init__(self, work: Work, lock: int) -> None:
        self.work = work
        self._lock = lock

    def release(self) -> None:
        """Give up the lease; another daemon may adopt the batch at once."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def remove(self) -> None:
        """Make the batch's folder disappear: in one rename. What is left of it then goes by `leaving`."""
        try:
            files.move(self.work.dir, self.work.gone)
        finally:
            self.release()


def claim(spool: Spool, dropped: Path, controls: Sequence[Path] = ()) -> Held | None:
    """Take a file out of the inbox, and the control files that go with it; None when somebody else took it first."""
    work = Work(spool.work / f"batch_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(5)}")
    work.dir.mkdir(0o700)
    held = _lock(work)
    if held is None:
        return None
    try:
        work.dropped.mkdir(0o700)
        meant.note(work, controls)
        try:
            files.move(dropped, work.dropped / dropped.name)
        except FileNotFoundError:
            held.remove()
            return None
        for sidecar in complete.sidecars_of(dropped):
            with suppress(FileNotFoundError):
                files.move(sidecar, work.dir / f"sidecar{sidecar.suffix}")
        meant.fetch(spool, work)
    except BaseException:
        held.release()  # whatever it holds by now, the next `adopt` finds
        raise
    return held


def adopt(spool: Spool, ours: Collection[str]) -> Iterator[Held]:
    """Yield every batch that nobody holds: after a restart, and after the death of a daemon beside this one."""
    for entry in sorted(os.scandir(spool.work), key=lambda e: e.name):
        if entry.name in ours or entry.name.startswith((".", "gone-")):
            continue
        work = Work(Path(entry.path))
        held = _lock(work)
        if held is None:
            continue
        if not _holds_anything(work):
            with suppress(OSError, SpoolError):  # where the disk says no, another time
                held.remove()  # a daemon died between making the folder and moving the file into it
        else:
            yield held


def leaving(spool: Spool, ours: Collection[str]) -> Iterator[Held]:
    """Yield every folder on its way out that nobody holds: its batch is published, and its name in work is gone."""
    for entry in sorted(os.scandir(spool.work), key=lambda e: e.name):
        if entry.name.startswith("gone-") and entry.name not in ours and (held := _lock(Work(Path(entry.path)))):
            yield held


def _holds_anything(work: Work) -> bool:
    return work.accepted.exists() or work.leaving.exists() or (work.dropped.is_dir() and any(work.dropped.iterdir()))


def _lock(work: Work) -> Held | None:
    fd = files.locked(work.dir)
    return Held(work, fd) if fd is not None else None
