"""How much room the spool's file system has left, for those who may write to it without being root."""

from __future__ import annotations

import os
from pathlib import Path


def lacking(folder: Path, needed: float) -> int:
    """Return how many of the `needed` bytes are not free where `folder` lies; 0 when there is room. Raises OSError."""
    there = os.statvfs(folder)
    return max(0, int(needed) - there.f_bavail * there.f_frsize)
