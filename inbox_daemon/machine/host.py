"""The host's memory and the spool's disk, as far as this service may use them. Asks the kernel, decides nothing."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

from inbox_daemon.machine import disk
from inbox_daemon.records import Host

_CGROUPS = Path("/sys/fs/cgroup")
_OURS = Path("/proc/self/cgroup")


def look(spool: Path) -> Host:
    """Return what is used now. Raises OSError where the spool is gone."""
    used, free = disk.use(spool)
    taken, whole = memory()
    return Host(round(taken / whole, 4), round(used, 4), free)


def memory() -> tuple[int, int]:
    """Return the bytes that are taken and those there are: of this process's cgroup, or the host's without a limit."""
    whole = psutil.virtual_memory()
    with suppress(OSError, ValueError, StopIteration):
        line = next(line for line in _OURS.read_text().splitlines() if line.startswith("0::"))
        group = _CGROUPS / line.removeprefix("0::").strip("/")
        for folder in [group, *group.parents]:
            limit = (folder / "memory.max").read_text().strip()  # a host's root has none, a container's has the limit
            if limit != "max" and int(limit) < whole.total:
                return _taken(folder), max(1, int(limit))
            if folder == _CGROUPS:
                break
    return whole.total - whole.available, whole.total


def _taken(folder: Path) -> int:
    """Return the bytes that a cgroup cannot give back: its page cache of files does not count."""
    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    current = int((folder / "memory.current").read_text())
    return max(0, current - int(stat.get("inactive_file", 0)) - int(stat.get("active_file", 0)))
