"""Where one batch stands, in memory: what its files in work/ID say, and what its life has come to.

Knows nothing of counts (`books`) and of what users see (`face`). Which files exist is the truth; this is its copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from inbox_daemon.layout import Work
from inbox_daemon.records import BatchStatus
from inbox_daemon.spool.ingest import Accepted


@dataclass(slots=True)
class State:
    """The standing of one batch; `batch.life` alone changes it.

    Attributes:
        status: OpenAI's word.
        accepted: what was accepted; None until then.
        cancelled, paused: somebody has said so.
        parked: why the daemon gave up on it until somebody says resume; `resumes` counts how often somebody has.
        parked_for: the models, and adapters, of what is left of it, where that is because they could not be loaded.
        rejected: why the file as a whole is no batch, as one of OpenAI's `errors.data[]`.
        lacking: bytes of disk that must become free before more of it is run; `needed` is how many must be free.
        waits_for: the model for which all that is left of it waits, where no engine of this daemon has that model.
        waits_for_memory: other batches have so many requests that this one's have no room beside them yet.
        hopeless: why no engine of this daemon could be loaded, now or later; the daemon ends with it.
        model: the last one that worked on it, as its engine calls it.
    """

    work: Work
    status: BatchStatus = BatchStatus.VALIDATING
    accepted: Accepted | None = None
    cancelled: bool = False
    paused: bool = False
    parked: str | None = None
    parked_for: Sequence[str] = ()
    resumes: int = 0
    rejected: dict[str, Any] | None = None
    lacking: int = 0
    needed: int = 0
    waits_for: str | None = None
    waits_for_memory: bool = False
    hopeless: str | None = None
    model: str = ""

    @property
    def held(self) -> bool:
        """Whether somebody has said that nothing more of it is to run."""
        return self.cancelled or self.paused or self.parked is not None

    @property
    def rests(self) -> bool:
        """Whether it waits for a word of somebody: to go on, or for a daemon that has its model."""
        return not self.cancelled and (self.paused or self.parked is not None or self.waits_for is not None)

    @property
    def named(self) -> str:
        """By which slug the file's name says which model answers; "": it does not."""
        return self.accepted.named if self.accepted else ""

    def read(self) -> None:
        """Take from the batch's folder what control files have made of it."""
        self.cancelled = self.work.cancel.exists()
        self.paused = self.work.pause.exists()
        parked = orjson.loads(self.work.parked.read_bytes()) if self.work.parked.exists() else {}
        self.parked, self.parked_for = parked.get("reason"), parked.get("models", ())

    def final(self) -> BatchStatus:
        """Return the status with which the batch ends, once every request has its outcome."""
        accepted = self.accepted
        if self.cancelled:
            return BatchStatus.CANCELLED
        nothing_ran = accepted is not None and (accepted.refused or accepted.faults == accepted.requests)
        return BatchStatus.FAILED if nothing_ran else BatchStatus.COMPLETED
