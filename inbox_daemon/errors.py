"""The exceptions of the project, all of them.

    InboxDaemonError
    ├── ConfigError      a setting is unknown or wrong; exit 78
    ├── NotNow           something stands in the way that may pass; exit 1, and systemd starts it again
    ├── SpoolError       the spool cannot be used as it is
    │   ├── NotDurable   a write did not reach the disk; the file is no longer trusted
    │   └── NoRoom       the disk is full, or has only what must stay free
    ├── Rejected         one dropped file cannot become a batch; costs that file
    └── EngineDied       the engine ended, however it did; costs nothing but time

A request that is wrong is no exception: it is a `records.Fault`.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from inbox_daemon.text import shown


class InboxDaemonError(Exception):
    """Base of all; its text names what failed, why, and the operator's next step."""


class ConfigError(InboxDaemonError):
    """A setting is unknown or has a value that cannot be right.

    Restarting does not help, so the process exits with 78 (EX_CONFIG) and systemd leaves it down.
    """

    STATUS = 78


class NotNow(InboxDaemonError):
    """Something that is needed cannot be had now, and may be had another time: a mount, a port, memory."""


class SpoolError(InboxDaemonError):
    """The spool is missing, not ours to write, or spread over several file systems."""


class NotDurable(SpoolError):
    """fsync failed. Linux may have dropped the pages, so trying again could report success for lost data."""


class NoRoom(SpoolError):
    """The disk is full, or has no more than `results.keep_free` says must stay free. Room may come."""


class Rejected(InboxDaemonError):
    """A dropped file cannot become a batch.

    Attributes:
        code: a stable word for programs, e.g. ``corrupt_compression``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class EngineDied(InboxDaemonError):
    """The engine is gone: it crashed, was killed, hung until it was killed, or never came up.

    Attributes:
        reason: one sentence, e.g. ``killed by SIGKILL``.
        log: the last lines that the engine wrote, oldest first.
    """

    def __init__(self, reason: str, log: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.log = tuple(log)


# What only somebody who changes a setting, a mode or a mount can mend (errno(3)).
_STAYS = {
    errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EROFS, errno.EINVAL, errno.ELOOP,
    errno.ENAMETOOLONG, errno.ENOEXEC, errno.EOPNOTSUPP, errno.ENOSYS, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT,
}  # fmt: skip


def may_pass(error: OSError) -> bool:
    """Say whether what the system refused may be had another time, with nobody changing anything."""
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    return error.errno not in _STAYS


def told(error: Exception) -> str:
    """Return what a file operation failed with, for the log: the path, the cause and, where it is room, what is left.

    A file system may have bytes but no inodes left; then no file can be made.
    """
    if not isinstance(error, OSError) or error.filename is None:
        return shown(str(error))
    sentence = shown(f"{error.filename}: {error.strerror}")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with suppress(OSError):
            there = os.statvfs(Path(error.filename).parent)
            free = f"{there.f_bavail * there.f_frsize} bytes and {there.f_favail} files"
            return f"{sentence}; there is room for {free} there"
    return sentence
