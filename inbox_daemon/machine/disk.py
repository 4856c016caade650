"""What the spool's file system is, and how much room it has left for those who are not root."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse", "afs", "ceph", "glusterfs", "lustre")


def lacking(folder: Path, needed: float) -> int:
    """Return how many of the `needed` bytes are not free where `folder` lies; 0 when there is room. Raises OSError."""
    there = os.statvfs(folder)
    return max(0, int(needed) - there.f_bavail * there.f_frsize)


def use(folder: Path) -> tuple[float, int]:
    """Return which share of the file system is in use (0 to 1), as df(1) counts, and the bytes free. Raises OSError."""
    there = os.statvfs(folder)
    used = there.f_blocks - there.f_bfree
    return used / max(1, used + there.f_bavail), there.f_bavail * there.f_frsize


def is_remote(folder: Path) -> bool:
    """Say whether the folder's file system is one whose changes inotify does not see."""
    best = max(
        (part for part in psutil.disk_partitions(all=True) if folder.resolve().is_relative_to(part.mountpoint)),
        key=lambda part: len(part.mountpoint),
        default=None,
    )
    return best is not None and best.fstype.startswith(_REMOTE)
