"""What comes in: batches that nobody holds any more, files that have settled, control files.

Claims, and hands on what it holds. Never decides whether a file has settled (`intake`), and runs nothing.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Set
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from inbox_daemon.batch.life import Life
from inbox_daemon.config import Config
from inbox_daemon.errors import SpoolError, told
from inbox_daemon.inbox.arrivals import Intake
from inbox_daemon.layout import Spool
from inbox_daemon.machine import disk
from inbox_daemon.setbacks import Setbacks
from inbox_daemon.spool import claim, control, published
from inbox_daemon.text import shown

log = logging.getLogger(__name__)

_FOR_A_SLOT = "waiting for a batch to end (inbox.max_claimed)"
_NAMED = 1000  # of the files that wait for a slot; the views are written once a second
_PATIENCE = 5.0  # seconds that a control file for no batch is kept: somebody may have claimed it, and not named it yet
_ADOPT_EVERY = 5.0  # seconds
_SLICE = 0.05  # seconds of obeying and claiming in one pass of the loop; each syncs


class Entrance:
    """Args:

    config: asked anew each time, since SIGHUP replaces it.
    lives: the batches in work.
    setbacks: is told of folders that cannot be read.
    begin: takes what has been claimed.
    safely: does something for one batch, whose failing costs that batch alone.

    Attributes:
        waiting: why a file is still in the inbox, by its name.
        suspended: batches, by id, that are not to be adopted before that time.
    """

    def __init__(
        self,
        spool: Spool,
        config: Callable[[], Config],
        intake: Intake,
        lives: Mapping[int, Life],
        setbacks: Setbacks,
        begin: Callable[[claim.Held], None],
        safely: Callable[[Life, Callable[[], object]], bool],
    ) -> None:
        self._spool, self._config, self._intake = spool, config, intake
        self._lives, self._begin, self._safely = lives, begin, safely
        self._setbacks = setbacks
        self.waiting: dict[str, str] = {}
        self.suspended: dict[str, float] = {}
        self._orphans: dict[str, str] = {}  # sidecars without a file: seen, and nothing that waits for us
        self._controls: deque[tuple[Path, str, str]] = deque()
        self._strays: dict[str, float] = {}  # control files for no batch, and when they were seen first
        self._arrived: deque[Path] = deque()  # settled, and not claimed for want of a slot
        self._refused = False  # the disk refused one of these; the next scan tries again
        self._adopt_at = 0.0
        self._left_behind = False  # batches that nobody holds, for want of a slot; they come before new files

    def said(self) -> dict[str, Any]:
        """Return what the views are to know: which files wait, and why, and how many more wait for a slot."""
        queued = {shown(path.name): _FOR_A_SLOT for path in islice(self._arrived, _NAMED)}
        named = queued | self._orphans | self.waiting
        return {"waiting": named, "waiting_unnamed": max(0, len(self._arrived) - _NAMED)}

    @property
    def has_more_to_do(self) -> bool:
        """Whether there is something that it can take at once."""
        return bool(self._controls) or self._may_take

    @property
    def is_done(self) -> bool:
        """Whether nothing is on its way in, or waits for what may change by itself."""
        coming = self._intake.arriving or self._arrived or self._controls
        return not (coming or self._left_behind or self.suspended or self._refused)

    def look(self, now: float) -> None:
        """Take what there is room for. `now` is monotonic seconds, here and below."""
        self._adopt(now)  # before new files: what somebody left is older, and they take all the room there is
        try:
            arrivals = self._intake.look(now)
        except OSError as error:
            log.error("inbox cannot be read: %s; trying again", told(error))
            self._setbacks.failed("inbox", told(error), now)
            self._refused = True
            return
        if arrivals is not None:
            self._setbacks.over("inbox")
            self._arrived, self.waiting, self._refused = deque(arrivals.settled), arrivals.waiting, False
            self._orphans = arrivals.orphans
            self._controls = deque(arrivals.controls)
            there = {path.name for path, _, _ in arrivals.controls}
            self._strays = {file: since for file, since in self._strays.items() if file in there}
        self._obey(now)
        deadline = time.monotonic() + _SLICE
        while self._may_take and time.monotonic() < deadline:
            self._take(self._arrived.popleft())

    def a_slot_is_free(self, now: float) -> None:
        """A batch is over: whatever has been waiting for a slot longest has it."""
        if self._left_behind:
            self._adopt_at = now

    @property
    def _may_take(self) -> bool:
        return bool(self._arrived) and self._has_a_slot and not self._left_behind

    @property
    def _has_a_slot(self) -> bool:
        return len(self._lives) < self._config().inbox.max_claimed

    def _adopt(self, now: float) -> None:
        if now < self._adopt_at:
            return
        self._adopt_at = now + _ADOPT_EVERY
        self._left_behind = False
        self.suspended = {id: until for id, until in self.suspended.items() if until > now}
        ours = {life.work.id for life in self._lives.values()} | self.suspended.keys()
        try:
            for held in claim.adopt(self._spool, ours):
                if not self._has_a_slot:
                    held.release()
                    self._left_behind = True
                    break
                self._begin(held)
            self._setbacks.over("work")
        except OSError as error:
            log.error("work cannot be read: %s; trying again", told(error))
            self._setbacks.failed("work", told(error), now)

    # -- control files

    def obey_what_waits_for(self, life: Life) -> None:
        """Carry out what came before the batch had its name: none of it runs first. Raises OSError, SpoolError.

        Asks the disk, not the last scan: after a crash there is none yet.
        """
        for path, verb in control.waiting_for(self._spool, life.name, life.ledger.source):
            self._carry_out(path, life.name, verb, life)

    def _obey(self, now: float) -> None:
        """Carry out control files for a slice of time, one at least."""
        to_come = published.to_come(self._spool) if self._controls else set()  # by now
        deadline = time.monotonic() + _SLICE
        while self._controls:
            self._control(*self._controls.popleft(), to_come, now)
            if time.monotonic() >= deadline:
                break

    def _named(self, name: str) -> Life | None:
        return next((life for life in self._lives.values() if life.name == name), None)

    def _control(self, path: Path, name: str, verb: str, to_come: Set[str], now: float) -> None:
        named = self._named(name)
        if named or name in to_come or control.lives(self._spool, name):
            self._strays.pop(path.name, None)
            if named:  # half of it may fail: the batch is let go, and reads from files what it is
                self._safely(named, partial(self._carry_out, path, name, verb, named))
            return  # else its file is here, or another daemon has it
        since = self._strays.setdefault(path.name, now)
        if not all(life.ledger.has_name for life in self._lives.values()):
            self._intake.claimed()  # it may be for one of these: look again soon
            return
        if self.suspended or now - since < _PATIENCE:
            return
        try:
            self._carry_out(path, name, verb, None)
        except (OSError, SpoolError) as error:
            self._waits(path, f"cannot be carried out: {told(error)}")

    def _carry_out(self, path: Path, name: str, verb: str, named: Life | None) -> None:
        if refusal := control.obey(path, name, verb, named):
            log.warning("%s thrown away: %s", shown(path.name), refusal)

    # -- files

    def _take(self, path: Path) -> None:
        try:
            if self._intake.unchanged(path) and self._has_room_for(path) and (held := claim.claim(self._spool, path)):
                self._begin(held)
                self._intake.claimed()
        except (OSError, SpoolError) as error:
            self._waits(path, f"cannot be claimed: {told(error)}")

    def _waits(self, path: Path, why: str) -> None:
        """Leave a file in the inbox that the disk refuses to give us; the next scan tries again."""
        self.waiting[path.name] = why
        self._refused = True
        self._intake.complain(path.name, why)

    def _has_room_for(self, path: Path) -> bool:
        """Leave a file in the inbox while its copy would fill the disk; it is looked at again with the next scan."""
        try:
            size = path.lstat().st_size
        except FileNotFoundError:
            return False
        config = self._config()
        if size > config.inbox.max_file_bytes:
            return True  # none of it will be copied
        if lacking := disk.lacking(self._spool.work, size + config.results.keep_free):
            self.waiting[path.name] = f"waiting for disk space: {1 + lacking // 1_000_000} MB more needed"
            self._intake.complain(path.name, "waits for disk space")
        return not lacking
