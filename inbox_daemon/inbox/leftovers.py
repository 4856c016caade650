"""What uploads leave in the inbox that came to nothing: the hidden copies of `submit`, and anybody's half of a file.

Judges, and removes nothing. A copy of ours may go once nobody has it open and nothing of it has changed for an hour; of
others' it is only said that it lies there.
"""

from __future__ import annotations

import re
import stat
from enum import StrEnum
from pathlib import Path

from inbox_daemon.layout import is_unfinished
from inbox_daemon.spool import complete

_STALE = 3600.0  # seconds without a change; who writes changes it all the time
_STALE_UNPROVEN = 86400.0  # the same where the kernel will not say whether somebody has it open
_OURS = re.compile(r"\.\d{19}\.jsonl(\.gz|\.zst)?")  # `spool/drop`: nanoseconds and a suffix

WHY = "not taken: half an upload, and nothing of it has come for an hour; remove it where nobody sends it any more"


class Leftover(StrEnum):
    OURS = "ours"
    OTHERS = "others"


def judge(path: Path, wall: float) -> Leftover | None:
    """Say whose leftover an unfinished file is; None where it is none, or may still grow. `wall` is in Unix seconds."""
    if not is_unfinished(path.name) or ".jsonl" not in path.name:
        return None
    try:
        found = path.lstat()
    except OSError:
        return None
    unchanged = wall - found.st_ctime  # ctime, because uploads set mtime
    if unchanged < _STALE or not stat.S_ISREG(found.st_mode):
        return None
    writers = complete.has_writer(path)
    if writers or (writers is None and unchanged < _STALE_UNPROVEN):
        return None
    return Leftover.OURS if _OURS.fullmatch(path.name) else Leftover.OTHERS
