"""Control files in the inbox: carried out where they mean a batch of ours, left where they go with a file that waits or
mean another daemon's batch, thrown away where they mean nobody. What deletes a batch that has ended is handed on.

Whom they mean is `spool/meant`'s to say, and what becomes of the batch `spool/control`'s.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from inbox_daemon.batch.life import Life
from inbox_daemon.batches import Batches
from inbox_daemon.errors import SpoolError, told
from inbox_daemon.inbox.arrivals import Arriving
from inbox_daemon.layout import Spool
from inbox_daemon.spool import control, deletion, meant, published
from inbox_daemon.spool.deletion import Meant
from inbox_daemon.spool.meant import Came

_PATIENCE = 5.0  # seconds that a control file for no batch is kept: somebody may have claimed it, and not named it yet
_SLICE = 0.05  # seconds in one pass of the loop; each syncs


class Obeying:
    """The control files of the last scan.

    Args:
        refused: is told of a file that the disk does not let go, and why; the next scan tries again.

    Attributes:
        deletes: the control files that mean what has ended, and whom (`ended/deleting`).
    """

    def __init__(
        self, spool: Spool, arriving: Arriving, batches: Batches, refused: Callable[[Path, str], None]
    ) -> None:
        self._spool, self._arriving, self._batches, self._refused = spool, arriving, batches, refused
        self.deletes: dict[Path, Meant] = {}
        self._said: dict[Path, Came] = {}  # when each of these came: whom it means stays as it was then
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
        self.deletes = {path: one for path, one in self.deletes.items() if path.name in there}
        self._said = {path: came for path, came in self._said.items() if path in self.deletes}

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

    def before_a_claim(self, name: str) -> None:
        """See to what deletes a batch of this name before a file is taken that came after it, and may end at once."""
        for one in [one for one in self._controls if one[1:] == (name, "delete")]:
            self._controls.remove(one)
            self._one(*one, published.to_come(self._spool), time.monotonic())

    def lives(self, name: str) -> bool:
        """Say whether a batch of this name is in work, whosever, or one of ours is about to have it."""
        here = self._batches.named(name) is not None or self._batches.about_to_be(name)
        return here or control.lives(self._spool, name)

    def _one(self, path: Path, name: str, verb: str, to_come: Mapping[str, Sequence[str]], now: float) -> None:
        order, named = self._arriving.order, self._batches.named(name)
        files = [self._spool.inbox / file for file in to_come.get(name, ())]
        came = order.of(path)
        if verb == "delete":
            self._delete(path, name, named, waits=bool(order.files_of(path, files, lives=True)))
            return
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

    def _delete(self, path: Path, name: str, named: Life | None, *, waits: bool) -> None:
        """Hand on what deletes a batch: the last that came before it, as ever, but what has ended counts as one."""
        came = self._arriving.order.of(path)
        if path in self.deletes and self._said.get(path) == came:
            return
        self.deletes.pop(path, None)
        if waits:
            self._throw_away(path, f"{name} waits in the inbox, and has not ended")
        elif named and not named.state.status.final:
            self._throw_away(path, f"{name} has not ended; cancel it first")
        elif named or not control.lives(self._spool, name):  # else another daemon has it
            try:
                self.deletes[path], self._said[path] = deletion.meant(self._spool, name), came
            except SpoolError as wrong:
                self._throw_away(path, str(wrong))

    def _means_nobody(self, path: Path, name: str, left_alone: bool, now: float) -> None:
        since = self._strays.setdefault(path.name, now)
        if not all(life.face.has_name for life in self._batches):
            self._arriving.claimed()  # it may be for one of these: look again soon
            return
        if self._batches.suspended or now - since < _PATIENCE:
            return
        self._throw_away(path, self._why(name, left_alone))

    def _throw_away(self, path: Path, why: str) -> None:
        try:
            control.throw_away(path, why)
        except (OSError, SpoolError) as error:
            self._refused(path, f"cannot be carried out: {told(error)}")

    def _why(self, name: str, left_alone: bool) -> str:
        if left_alone:
            return "the file that it came with is not there any more"
        if published.status(self._spool, name) is not None:
            return f"{name} has ended, and no file of that name waits"
        return f"no batch called {name} is waiting or running"
