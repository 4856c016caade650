"""What comes in: batches that nobody holds any more, files that have settled; control files by way of `obeying`.

Claims, and hands on what it holds. Never decides whether a file has settled (`arrivals`), and runs nothing.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from inbox_daemon.batches import Batches
from inbox_daemon.errors import SpoolError, told
from inbox_daemon.inbox.arrivals import Arriving
from inbox_daemon.inbox.elsewhere import Elsewhere
from inbox_daemon.inbox.not_taken import NotTaken, stands
from inbox_daemon.inbox.obeying import Obeying
from inbox_daemon.inbox.seats import Candidate, is_free
from inbox_daemon.layout import Spool
from inbox_daemon.machine import disk
from inbox_daemon.setbacks import Setbacks
from inbox_daemon.settings import Settings
from inbox_daemon.spool import claim, control, files, meant, notices
from inbox_daemon.spool.deletion import Meant
from inbox_daemon.text import shown, span

log = logging.getLogger(__name__)

_FOR_A_SEAT = "waiting for a batch to end (inbox.max_claimed)"
_NAMED = 500  # of the files that wait for a seat, and of all others; the views are written once a second
_ADOPT_EVERY = 5.0  # seconds
_SLICE = 0.05  # seconds of claiming in one pass of the loop; each syncs


class Taking:
    """The way in.

    Args:
        setbacks: is told of folders that cannot be read.

    Attributes:
        waiting: why a file is still in the inbox, by its name.
        needed: bytes that must be free for the largest of those that wait for room; 0: none does.
    """

    def __init__(
        self, spool: Spool, settings: Settings, arriving: Arriving, batches: Batches, setbacks: Setbacks
    ) -> None:
        self._spool, self._settings, self._arriving = spool, settings, arriving
        self._batches, self._setbacks = batches, setbacks
        self._elsewhere = Elsewhere(spool, settings)
        self._not_taken = NotTaken(spool, arriving.complaints)
        self.waiting: dict[str, str] = {}
        self.needed = 0
        self._orphans: dict[str, str] = {}  # sidecars without a file: seen, and nothing that waits for us
        self._obeying = Obeying(spool, arriving, batches, self._waits)
        self._arrived: deque[Candidate] = deque()  # settled, and not claimed for want of a seat
        self._refused = False  # the disk refused one of these; the next scan tries again
        self._unserved = False  # some of those that wait ask for a model that no daemon here has yet
        self._adopt_at = 0.0
        self._left_behind = False  # batches that nobody holds, for want of a seat; they come before new files

    def said(self) -> dict[str, Any]:
        """Return what the views are to know: which files wait, and why, and how many more wait for a seat."""
        queued = {shown(one.path.name): _FOR_A_SEAT for one in islice(self._arrived, _NAMED)}
        reasons = dict(islice((self.waiting | self._orphans).items(), _NAMED))
        named = queued | reasons
        unnamed = len(self._arrived) + len(self.waiting) + len(self._orphans) - len(queued) - len(reasons)
        return {"waiting": named, "waiting_unnamed": unnamed} | self._elsewhere.ours()

    @property
    def stuck(self) -> Mapping[str, str]:
        """Why files stand in the inbox about which somebody has to do something, by file name as it is."""
        return self._not_taken.stuck

    @property
    def deletes(self) -> Mapping[Path, Meant]:
        """The control files by which batches that have ended are to be deleted, and whom each means."""
        return self._obeying.deletes

    @property
    def has_more_to_do(self) -> bool:
        """Whether there is something that it can take at once."""
        return self._obeying.has_more_to_do or self._may_take

    @property
    def is_done(self) -> bool:
        """Whether nothing is on its way in, or waits for what may change by itself."""
        coming = self._arriving.arriving or self._arrived or self._obeying.has_more_to_do
        return not (coming or self._left_behind or self._batches.suspended or self._refused or self._unserved)

    def look(self, now: float) -> None:
        """Take what there is room for. `now` is monotonic seconds, here and below."""
        self._adopt(now)  # before new files: what somebody left is older, and they take all the room there is
        try:
            arrivals = self._arriving.look(now)
        except OSError as error:
            log.error("inbox cannot be read: %s; trying again", told(error))
            self._setbacks.failed("inbox", told(error), now)
            self._refused = True
            return
        if arrivals is not None:
            self._setbacks.over("inbox")
            self._arrived, self.waiting = deque(arrivals.settled), arrivals.waiting
            self._refused = self._unserved = False
            self._not_taken.scanned(arrivals.stuck)
            self._orphans, self.needed = arrivals.orphans, 0
            self._obeying.scanned(arrivals.controls)
            self._clear(arrivals.leftovers)
        self._obeying.obey(now)
        deadline = time.monotonic() + _SLICE
        while self._may_take:
            self._take(self._arrived.popleft())
            if time.monotonic() >= deadline:
                break
        self._not_taken.tell()

    def a_seat_is_free(self, now: float) -> None:
        """A batch is over: whatever has been waiting for a seat longest has it."""
        if self._left_behind:
            self._adopt_at = now

    @property
    def _may_take(self) -> bool:
        """Whether there is a seat for the first of them, and then perhaps for the next. What nobody holds is older."""
        if not self._arrived or (self._left_behind and self._arrived[0].priority <= 0):
            return False
        return self._has_a_seat(self._arrived[0].priority)

    def _has_a_seat(self, priority: int) -> bool:
        seated = (life.queue.priority for life in self._batches if not life.rests)
        return is_free(priority, seated, self._settings.now.inbox.max_claimed)

    # -- batches that nobody holds

    def _adopt(self, now: float) -> None:
        if now < self._adopt_at:
            return
        self._adopt_at = now + _ADOPT_EVERY
        self._left_behind = False
        suspended = {id: until for id, until in self._batches.suspended.items() if until > now}
        self._batches.suspended = suspended
        self._leave_to_others()
        ours = {life.work.id for life in self._batches} | suspended.keys()
        try:
            for held in claim.adopt(self._spool, ours):
                if self._elsewhere.has_engine_for(held.work):
                    held.release()
                elif control.is_held(held.work) or self._has_a_seat(0):
                    self._batches.begin(held)
                else:
                    held.release()
                    self._left_behind = True
                    break
            self._setbacks.over("work")
        except OSError as error:
            log.error("work cannot be read: %s; trying again", told(error))
            self._setbacks.failed("work", told(error), now)

    def _leave_to_others(self) -> None:
        """Let batches go that wait for a model which another daemon of this spool has: it will adopt them.

        For a slice of time, since each syncs; the rest of them at the next look.
        """
        deadline = time.monotonic() + _SLICE
        for life in self._batches:
            if time.monotonic() >= deadline:
                self._adopt_at = 0.0
                break
            if life.state.waits_for is not None and (daemon := self._elsewhere.has_engine_for(life.work)):
                life.face.log.info("%s: left to %s, which has its model", life.name, daemon)
                self._batches.safely(life, partial(life.rest, time.monotonic()))
                self._batches.let_go(life)

    # -- files

    def _take(self, one: Candidate) -> None:
        path = one.path
        try:
            if not self._arriving.unchanged(path) or not self._is_for_us(one) or not self._has_room_for(one):
                return
            self._obeying.before_a_claim(one.name)
            notices.take_back(self._spool, path.name)  # or its batch would get the next free name
            controls = meant.to_take_along(self._spool, path, self._obeying.lives, self._arriving.order.of)
            if held := claim.claim(self._spool, path, controls):
                self._batches.begin(held)
                self._arriving.order.taken(path)
                self._arriving.claimed()
        except (OSError, SpoolError) as error:
            why = f"cannot be claimed: {told(error)}"
            self._waits(path, why)
            self._stands(one, why)

    def _stands(self, one: Candidate, why: str) -> None:
        if stands(one.waited, self._settings.now.inbox):
            self._not_taken.stuck[one.path.name] = why

    def _clear(self, leftovers: Sequence[Path]) -> None:
        """Remove what `submit` left whose terminal was closed, or which was killed."""
        for path in leftovers:
            try:
                files.remove(path)
                log.warning("inbox: %s removed: a copy that submit did not finish", shown(path.name))
            except OSError as error:
                self._arriving.complaints.say(path.name, f"cannot be removed: {told(error)}")

    def _waits(self, path: Path, why: str) -> None:
        """Leave a file in the inbox that the disk refuses to give us; the next scan tries again."""
        self.waiting[shown(path.name)] = why
        self._refused = True
        self._arriving.complaints.say(path.name, why)

    def _is_for_us(self, one: Candidate) -> bool:
        """Leave a file in the inbox whose requests ask for a model that another daemon of this spool has; for a while,
        also one that asks for a model that none has: whoever is to serve it may be about to start.
        """
        if (asked := self._elsewhere.lacking(one.path)) is None:
            return True
        if daemon := self._elsewhere.serving(asked):
            self.waiting[shown(one.path.name)] = f"left to {daemon}, which has the model that it asks for"
            return False
        patience = self._settings.now.inbox.wait_for_model
        if one.waited >= patience:
            return True  # each request gets the reason, and is in retry.jsonl
        self._unserved = True
        why = f"no daemon here serves {shown(asked.model)!r}, which it asks for; it comes back"
        why += f" with retry.jsonl where none does within {span(patience)} (inbox.wait_for_model)"
        self.waiting[shown(one.path.name)] = why
        self._arriving.complaints.say(one.path.name, f"waits: {why}")
        self._not_taken.awaits(one.path.name, why)
        return False

    def _has_room_for(self, one: Candidate) -> bool:
        """Leave a file in the inbox while its copy would fill the disk; it is looked at again with the next scan."""
        try:
            size = one.path.lstat().st_size
        except FileNotFoundError:
            return False
        config = self._settings.now
        if size > config.inbox.max_file_bytes:
            return True  # none of it will be copied
        needed = size + config.results.keep_free
        if lacking := disk.lacking(self._spool.work, needed):
            self.needed = max(self.needed, needed)
            self.waiting[shown(one.path.name)] = f"waiting for disk space: {1 + lacking // 1_000_000} MB more needed"
            self._arriving.complaints.say(one.path.name, "waits for disk space")
            self._stands(one, f"waiting for disk space: {needed // 1_000_000:,} MB must be free")
        return not lacking
