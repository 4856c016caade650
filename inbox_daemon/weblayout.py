"""The names in what is the web process's own in a spool, as `layout` has the others. No I/O, no decisions.

SPOOL/files/file-ID/         an upload: file.json, and content[.jsonl|.jsonl.gz|.jsonl.zst] as it came
SPOOL/files/upload_ID/       one that comes in parts, over several requests (`spool/parted`); it becomes file-ID
SPOOL/files/.up-MARK/        one that is being sent or made; whoever does holds its flock
SPOOL/files/.gone-MARK/      what was deleted, on its way out
SPOOL/web/batches/batch_ID/  a batch that was made by API: batch.json, and where its file is (`spool/submitted`)
SPOOL/web/batches/.new-MARK/ one that is being made, with its flock
SPOOL/web/hooks/EVENT.json   a webhook that is not delivered yet
SPOOL/web/marks/SET.jsonl    what people say of answers
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MADE = ".up-"
NEW = ".new-"
GONE = ".gone-"

FILE_ID = re.compile(r"file-[0-9a-f]{16}")
UPLOAD_ID = re.compile(r"upload_[0-9a-f]{16}")
PART_ID = re.compile(r"part_[0-9a-f]{16}")
BATCH_ID = re.compile(r"batch_[0-9a-f]{16}")  # the daemon's own have 22 digits


@dataclass(frozen=True, slots=True)
class Stored:
    """`files/file-ID/`: one upload. Whole from the moment at which it has this name."""

    dir: Path

    @property
    def record(self) -> Path:
        return self.dir / "file.json"

    def content(self, suffix: str) -> Path:
        """The bytes as they came; `suffix` is one of `layout.SUFFIXES`, or "" where the sender's name had none."""
        return self.dir / f"content{suffix}"


@dataclass(frozen=True, slots=True)
class InParts:
    """`files/upload_ID/`: an upload that comes in parts; whoever writes to `content` holds the folder's flock."""

    dir: Path

    @property
    def record(self) -> Path:
        return self.dir / "upload.json"

    @property
    def content(self) -> Path:
        """The parts that came one after another, in that order; what `parts` does not know of counts for nothing."""
        return self.dir / "content"

    @property
    def parts(self) -> Path:
        """A line for each part that was acknowledged."""
        return self.dir / "parts.jsonl"

    def beside(self, part: str) -> Path:
        """A part that came while another was coming."""
        return self.dir / part


@dataclass(frozen=True, slots=True)
class WebFolder:
    """`SPOOL/web/`: what nobody but the web process reads."""

    dir: Path

    @property
    def batches(self) -> Path:
        return self.dir / "batches"

    @property
    def hooks(self) -> Path:
        return self.dir / "hooks"

    @property
    def marks(self) -> Path:
        return self.dir / "marks"


@dataclass(frozen=True, slots=True)
class Submission:
    """`web/batches/batch_ID/`: which of these exist says where the batch's file is."""

    dir: Path

    @property
    def record(self) -> Path:
        return self.dir / "batch.json"

    @property
    def pending(self) -> Path:
        """The batch's file before it goes into the inbox. It goes there by one rename, and so does `withdrawn` come."""
        return self.dir / "pending"

    @property
    def withdrawn(self) -> Path:
        """The file as it was taken back out of the inbox: cancelled before it was claimed; empty soon after that."""
        return self.dir / "withdrawn"

    @property
    def sidecar(self) -> Path:
        """What is about to be NAME.jsonl.sha256 in the inbox."""
        return self.dir / "sidecar"

    @property
    def priority(self) -> Path:
        """What is about to be NAME.priority in the inbox."""
        return self.dir / "priority"

    @property
    def seen(self) -> Path:
        """The last status that was final: what is told once the batch's folder in the outbox has been removed."""
        return self.dir / "seen.json"
