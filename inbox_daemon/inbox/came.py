"""Which file of the inbox came before which, as far as anybody can tell, and what follows from that for who is taken.

Reads ctimes, and the number in a `.priority`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from inbox_daemon.inbox.seats import Candidate
from inbox_daemon.layout import control_of
from inbox_daemon.spool import control
from inbox_daemon.spool.complete import arrived_at
from inbox_daemon.spool.meant import Came, goes_with


class Order:
    """The order of arrival: by the scan that first saw a file, then by its ctime at that time.

    ctime alone would say that a file came when its upload ended, which may be an hour after its first byte.
    """

    def __init__(self) -> None:
        self._scans = 0
        self._first: dict[str, int] = {}  # the scan that first saw each name
        self._came: dict[str, Came] = {}

    def scan(self, names: Iterable[str]) -> None:
        """Take note of what a scan has found."""
        self._scans += 1
        self._first = {name: self._first.get(name, self._scans) for name in names}
        self._came = {name: came for name, came in self._came.items() if name in self._first}

    def of(self, path: Path) -> Came:
        """Return when it came. What no scan has seen yet came last, and so did a control file that is said again."""
        ctime = arrived_at(path)
        if path.name not in self._first:
            return Came(self._scans + 1, ctime)
        came = self._came.setdefault(path.name, Came(self._first[path.name], ctime))
        if ctime > came.ctime and control_of(path.name):
            came = self._came[path.name] = Came(self._scans, ctime)
        return came

    def files_of(self, path: Path, waiting: Iterable[Path], lives: bool) -> Collection[str]:
        """Return with which of the files that wait under its name a control file goes (`meant.goes_with`)."""
        return goes_with(self.of(path), {file.name: self.of(file) for file in waiting}, lives)

    def as_users_say(
        self, settled: Sequence[Candidate], controls: Iterable[tuple[Path, str, str]]
    ) -> Iterator[Candidate]:
        """Yield who may be taken, with the priorities that control files, in order, give to them."""
        said: dict[str, int] = {}
        for path, name, verb in controls:
            if verb == "priority" and (number := control.number_in(path)) is not None:
                files = [one.path for one in settled if one.name == name]
                said |= dict.fromkeys(self.files_of(path, files, lives=False), number)
        for one in settled:
            yield replace(one, priority=said[one.path.name]) if one.path.name in said else one

    def taken(self, path: Path) -> None:
        """Forget a file that was claimed: another one may come under its name before the next scan."""
        self._first.pop(path.name, None)
        self._came.pop(path.name, None)
