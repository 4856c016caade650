"""The way of one file from a batch made by API into the inbox, and back out of it while no daemon has claimed it.

The file is in one place at any moment, and each step is one rename: `pending`, the inbox or beyond, or `withdrawn`.
Knows nothing of who made the batch, and what becomes of it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import Spool
from inbox_daemon.spool import files
from inbox_daemon.weblayout import Submission

Phase = Literal["pending", "submitted", "withdrawn"]


@dataclass(frozen=True, slots=True)
class Passage:
    """One batch's folder, and its place in the inbox.

    Attributes:
        name: of the batch, and `file` of its file there: names that nobody else's have.
        sha256: of the file, by which the daemon sees that it is complete and the one that was meant.
        priority: None: nothing is said of it.
    """

    spool: Spool
    folder: Submission
    name: str
    file: str
    sha256: str
    priority: int | None

    @property
    def phase(self) -> Phase:
        if os.path.lexists(self.folder.withdrawn):
            return "withdrawn"
        return "pending" if os.path.lexists(self.folder.pending) else "submitted"

    @property
    def target(self) -> Path:
        return self.spool.inbox / self.file

    @property
    def _beside(self) -> list[Path]:
        return [self.target.with_name(f"{self.file}.sha256"), self.target.with_name(f"{self.name}.priority")]

    def submit(self) -> None:
        """Put what is pending into the inbox, and before it what says that it is complete; nothing where somebody is at
        it. What a crash left undone, or a power cut undid, is done again from the beginning.

        Raises OSError, NotDurable.
        """
        lock = files.locked(self.folder.dir)
        if lock is None:
            return
        try:
            if self.phase != "pending":
                return
            sidecar, control = self._beside
            if self.priority is not None:
                _drop(f"{self.priority}\n", self.folder.priority, control)
            _drop(f"{self.sha256}  {self.file}\n", self.folder.sidecar, sidecar)
            if not _moved(self.folder.pending, self.target) and not os.path.lexists(self.target):  # withdrawn
                self._leave_nothing_beside()
        finally:
            os.close(lock)

    def submit_quietly(self) -> None:
        """Submit what is pending; where the disk says no, it stays so."""
        if self.phase == "pending":
            with suppress(OSError, SpoolError):
                self.submit()

    def withdraw(self) -> bool:
        """Take the file back; False where a daemon has claimed it. Then none ever will. Raises OSError, NotDurable."""
        if self.phase == "withdrawn":
            return True
        if not any(_moved(place, self.folder.withdrawn) for place in (self.folder.pending, self.target)):
            return False
        files.sync_dir(self.folder.dir)
        with suppress(OSError, SpoolError):  # it is taken back; who recovers clears up
            self.clear_up()
        return True

    def clear_up(self) -> None:
        """Remove what a file that was taken back has left in the inbox, and let go of its bytes. Raises OSError."""
        self._leave_nothing_beside()
        if self.folder.withdrawn.lstat().st_size:
            files.write_whole(self.folder.withdrawn, b"")  # a new file: the old one may be the upload, too

    def _leave_nothing_beside(self) -> None:
        for left in self._beside:
            files.remove(left)


def _drop(text: str, made: Path, target: Path) -> None:
    files.write_whole(made, text.encode(), prepare=files.share)
    files.move(made, target)


def _moved(place: Path, target: Path) -> bool:
    try:
        files.move(place, target)
    except FileNotFoundError:
        return False
    return True
