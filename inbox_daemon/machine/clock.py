"""How long something has been, whoever sets the clock meanwhile: NTP, an operator, a virtual machine that is resumed.

A wall clock says when; it may be stepped back by a day, and then what lies between two looks at it is nothing to show.
Within one boot of the kernel CLOCK_BOOTTIME counts every second, those asleep too, for every process alike: it says how
long, over restarts of the daemon as well.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment as it can be written down.

    Attributes:
        wall: Unix seconds.
        boot: which boot of which kernel it was in; "" where nobody knows.
        up: seconds of that boot.
    """

    wall: float
    boot: str = ""
    up: float = 0.0


def now() -> Moment:
    return Moment(round(time.time(), 3), _boot(), round(time.clock_gettime(time.CLOCK_BOOTTIME), 3))


def seconds_between(earlier: Moment, later: Moment) -> float:
    """Return the seconds from one moment to a later one, never less than none.

    Where a reboot lies between the two only the wall clock knows, and is believed unless it has gone back.
    """
    if earlier.boot and earlier.boot == later.boot:
        return max(0.0, later.up - earlier.up)
    return max(0.0, later.wall - earlier.wall)


@cache
def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
