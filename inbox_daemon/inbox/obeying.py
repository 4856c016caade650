"""Control files in the inbox: carried out where they mean a batch of ours, left where they go with a file that waits or
mean another daemon's batch, thrown away where they mean nobody.

Whom they mean is `spool/meant`'s to say, and what becomes of the batch `spool/control`'s.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from inbox_daemon.batches import Batches
from inbox_daemon.errors import SpoolError, told
from inbox_daemon.inbox.arrivals import Arriving
from inbox_daemon.layout import Spool
from inbox_daemon.spool import control, meant, published
from inbox_daemon.spool.meant import Came

_PATIENCE = 5.0  # seconds that a control file for no batch is kept: somebody may have claimed it, and not named it yet
_SLICE = 0.05  # seconds in one pass of the loop; each syncs


class Obeying:
    """The control files of the last scan.

    Args:
        refused: is told of a file that the disk does not let go, and why; the next scan tries again.
    """

    def __init__(
        self, spool: Spool, arriving: Arriving, batches: Batches, refused: Callable[[Path, str], None]
    ) -> None:
        self._spool, self._arriving, self._batches, self._refused = spool, arriving, batches, refused
        self._controls: deque[tuple[Path, str, str]] = deque()
        self._strays: dict[str, float] = {}  # those that mean nobody, and when that was seen first
        self._with_a_file: dict[str, Came] = {}  # those that go with a file that waits, and when they came

    @property
    def has_more_to_do(self) -> bool:
        return bool(self._controls)

    def scanned(self, controls: Iterable[tuple[Path, str, str]]) -> None:
        """Take over what a scan has found: (path, name, verb), in order."""
        self._controls = deque(controls)
        there = {path.name for path, _, _ in self._controls}
        self._strays = {file: since for file, since in self._strays.items() if file in there}
        self._with_a_file = {file: came for file, came in self._with_a_file.items() if file in there}

    def obey(self, now: float) -> None:
        """Carry out control files for a slice of time, one at least. `now` is monotonic seconds."""
        to_come = published.to_come(self._spool) if self._controls else {}  # by now
        expected = meant.expected(self._spool) if self._controls else set()
        deadline = time.monotonic() + _SLICE
        while self._controls:
            path, name, verb = self._controls.popleft()
            if path.name not in expected:
                self._one(path, name, verb, to_come, now)
            if time.monotonic() >= deadline:
                break

    def lives(self, name: str) -> bool:
        """Say whether a batch of this name is in work, whosever, or one of ours is about to have it."""
        here = self._batches.named(name) is not None or self._batches.about_to_be(name)
        return here or control.lives(self._spool, name)

    def _one(self, path: Path, name: str, verb: str, to_come: Mapping[str, Sequence[str]], now: float) -> None:
        order, named = self._arriving.order, self._batches.named(name)
        files = [self._spool.inbox / file for file in to_come.get(name, ())]
        came = order.of(path)
        if files and order.files_of(path, files, self.lives(name)):
            self._with_a_file[path.name] = came
            self._strays.pop(path.name, None)
            return
        left_alone = self._with_a_file.get(path.name) == came  # its file was taken away, by its user as a rule
        if not left_alone and (named or control.lives(self._spool, name)):
            self._strays.pop(path.name, None)
            if named:  # half of it may fail: the batch is let go, and reads from files what it is
                self._batches.safely(named, partial(control.obey, path, verb, named))
            return  # else another daemon has it
        self._means_nobody(path, name, left_alone, now)

    def _means_nobody(self, path: Path, name: str, left_alone: bool, now: float) -> None:
        since = self._strays.setdefault(path.name, now)
        if not all(life.face.has_name for life in self._batches):
            self._arriving.claimed()  # it may be for one of these: look again soon
            return
        if self._batches.suspended or now - since < _PATIENCE:
            return
        try:
            control.throw_away(path, self._why(name, left_alone))
        except (OSError, SpoolError) as error:
            self._refused(path, f"cannot be carried out: {told(error)}")

    def _why(self, name: str, left_alone: bool) -> str:
        if left_alone:
            return "the file that it came with is not there any more"
        if published.status(self._spool, name) is not None:
            return f"{name} has ended, and no file of that name waits"
        return f"no batch called {name} is waiting or running"
