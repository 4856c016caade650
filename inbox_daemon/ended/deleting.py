"""Control files that delete what has ended: NAME.delete, or ID.delete. An empty one means all of the batch, another one
the files that it names.

Each is carried out once it lies unchanged and nobody writes to it, as a batch file is taken: what is empty may have its
content to come. Which batch is meant `inbox/obeying` has said; who has its name by then is another one. The control
file goes last, so that after a crash all of it is done again.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from inbox_daemon.errors import NotDurable, SpoolError, told
from inbox_daemon.journal import of_batch
from inbox_daemon.layout import Spool
from inbox_daemon.settings import Settings
from inbox_daemon.slices import busily
from inbox_daemon.spool import complete, control, deletion, files, remains
from inbox_daemon.spool.deletion import Meant, Over
from inbox_daemon.text import shown

log = logging.getLogger(__name__)

_SLICE = 0.01  # seconds in one pass of the loop
_AGAIN = 10.0  # seconds until what the disk has refused is tried again

BUSY, WAITING = True, False  # what a step says


class Deleting:
    """What users delete by control files. `now` is monotonic seconds."""

    def __init__(self, spool: Spool, settings: Settings) -> None:
        self._spool, self._settings = spool, settings
        self._jobs: deque[tuple[Path, Iterator[bool]]] = deque()
        self._not_before: dict[Path, float] = {}  # what the disk has refused, and when it is tried again
        self._taken_out = False
        self.busy = False

    @property
    def waits(self) -> bool:
        """Whether there is anything to delete, now or in a moment."""
        return bool(self._jobs or self._not_before)

    def look(self, now: float, deletes: Mapping[Path, Meant]) -> bool:
        """Give each of them its next step, for a slice of time; say whether a folder is on its way out of work now.

        Args:
            deletes: the control files of the last scan that mean what has ended, and whom.
        """
        self._not_before = {path: at for path, at in self._not_before.items() if path in deletes}
        at_work = {path for path, _ in self._jobs}
        for path, meant in deletes.items():
            if path not in at_work and now >= self._not_before.get(path, now):
                self._jobs.append((path, self._obey(path, meant)))
        self.busy = self._taken_out = False
        deadline = time.monotonic() + _SLICE
        for _ in range(len(self._jobs)):
            path, job = self._jobs.popleft()
            if path in deletes and (said := next(job, None)) is not None:
                self._jobs.append((path, job))
                self.busy |= said is BUSY
            if time.monotonic() >= deadline:
                self.busy = True
                break
        return self._taken_out

    def _obey(self, path: Path, meant: Meant) -> Iterator[bool]:
        try:
            yield from self._delete(path, meant)
        except FileNotFoundError:
            pass  # its user has taken it back, or another daemon has carried it out
        except (OSError, NotDurable) as error:
            log.error("%s cannot be carried out: %s; trying again", shown(path.name), told(error))
            self._not_before[path] = time.monotonic() + _AGAIN
            return
        except SpoolError as wrong:
            with suppress(OSError):  # another scan
                control.throw_away(path, str(wrong))
        self._not_before.pop(path, None)

    def _delete(self, path: Path, meant: Meant) -> Generator[bool, None, None]:
        seen, since = _identity(path), time.monotonic()
        batch = yield from busily(deletion.find(self._spool, meant))
        while True:
            if (now := _identity(path)) != seen:
                seen, since = now, time.monotonic()
            if self._lies_still(path, time.monotonic() - since) and not deletion.is_in_work(self._spool, batch):
                break
            yield WAITING
        batch = yield from busily(deletion.find(self._spool, Meant(batch.name, batch.id)))
        yield from self._carry_out(path, batch)
        files.remove(path)

    def _lies_still(self, path: Path, seconds: float) -> bool:
        writers, inbox = complete.has_writer(path), self._settings.now.inbox
        return not writers and seconds >= (inbox.settle_unproven if writers is None else inbox.settle)

    def _carry_out(self, path: Path, batch: Over) -> Iterator[bool]:
        if (names := deletion.files_named(path)) is None:
            deletion.into_work(self._spool, batch)
            self._taken_out = True
            of_batch(log, batch.name).info("%s: deleted, as %s says", batch.name, shown(path.name))
            return
        if (ended := remains.ended(self._spool, batch.name)) is None:
            raise SpoolError(f"{batch.name} has no receipt; empty, it deletes the whole folder")
        for _ in remains.remove_files(self._spool, ended, names):
            yield BUSY
        of_batch(log, batch.name).info("%s: %s removed, as %s says", batch.name, ", ".join(names), shown(path.name))


def _identity(path: Path) -> tuple[int, ...]:
    """What changes when a file is written or said again. Raises FileNotFoundError."""
    found = path.lstat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
