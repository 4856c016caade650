"""Every file and folder name of the spool, and nothing else: no I/O, no decisions about batches.

SPOOL/inbox/                 users drop NAME.jsonl[.gz|.zst], NAME.cancel, .pause, .resume, .priority, .delete, ID…
SPOOL/outbox/NAME/           users read
SPOOL/work/ID/               one claimed batch; its flock is the lease
SPOOL/work/gone-ID/          a finished one on its way out
SPOOL/work/.standing/        what the outbox says of files that stand in the inbox
SPOOL/daemons/HOST-PID-MARK.json      what each daemon says of itself, for views
SPOOL/alerts.jsonl           every alert, once when it was raised and once when it cleared
SPOOL/files/, SPOOL/web/     the web process's own; `weblayout` has the names in them
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from inbox_daemon.errors import SpoolError
from inbox_daemon.text import shown

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
CONTROLS = (".cancel", ".pause", ".resume", ".priority")  # of a batch that has not ended, or of a file that waits
DELETE = ".delete"  # of a batch that has ended
AGAIN = ".again"  # NAME.jsonl.again: it is to be run though the same bytes were sent under that name before
# NAME.jsonl.sha256 as sha256sum writes it, or NAME.jsonl.done: the upload is complete
SIDECARS = (".sha256", ".done", AGAIN)

# Names that uploaders use for what is not there yet, and editors for what nobody dropped.
_UNFINISHED = (".part", ".partial", ".tmp", ".filepart", ".crdownload", "~")

WORK_ID = re.compile(r"batch_[0-9a-f]{22}")  # what a claimed batch is called in work, and in its status
NAME_LIMIT = 180  # bytes; leaves room below NAME_MAX (255) for suffixes of ours


@dataclass(frozen=True, slots=True)
class Spool:
    root: Path

    @property
    def inbox(self) -> Path:
        return self.root / "inbox"

    @property
    def outbox(self) -> Path:
        return self.root / "outbox"

    def batch(self, name: str) -> Published:
        """Return the folder of the batch called `name`: the one door through which a name becomes a path.

        Raises:
            SpoolError: no batch can be called so: it is empty, or has in it what `batch_name` would change.
        """
        if not name or _fit_for_a_folder(name) != name:
            raise SpoolError(f"no batch can be called {shown(name)!r}: its name is that of one folder in {self.outbox}")
        return Published(self.outbox / name)

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def standing(self) -> Path:
        return self.work / ".standing"

    @property
    def daemons(self) -> Path:
        return self.root / "daemons"

    @property
    def alerts(self) -> Path:
        return self.root / "alerts.jsonl"

    @property
    def files(self) -> Path:
        return self.root / "files"

    @property
    def web(self) -> Path:
        return self.root / "web"


@dataclass(frozen=True, slots=True)
class Work:
    """`work/ID/`: which of these exist says what is next (the state table in INTERNALS.md)."""

    dir: Path

    @property
    def id(self) -> str:
        return self.dir.name

    @property
    def claimed_at(self) -> float:
        """Unix seconds of the claim, which the id begins with."""
        return int(self.id.removeprefix("batch_")[:12], 16) / 1000

    @property
    def dropped(self) -> Path:
        """The claimed file itself, in a folder of its own so that it can keep the user's name."""
        return self.dir / "dropped"

    @property
    def name(self) -> Path:
        """The name in the outbox that this batch has or is about to take."""
        return self.dir / "name.json"

    @property
    def door(self) -> Path:
        """The outbox folder before it has its place in the outbox."""
        return self.dir / "door"

    @property
    def notice(self) -> Path:
        return self.dir / "notice"

    @property
    def input(self) -> Path:
        return self.dir / "input.jsonl"

    @property
    def index(self) -> Path:
        return self.dir / "index"

    @property
    def accepted(self) -> Path:
        return self.dir / "batch.json"

    @property
    def history(self) -> Path:
        return self.dir / "history.jsonl"

    @property
    def open_part(self) -> Path:
        return self.dir / "open.jsonl"

    @property
    def parts(self) -> Path:
        return self.dir / "parts"

    @property
    def showing(self) -> Path:
        """The part that is being sealed, as users are to have it: a second name of it, or a copy."""
        return self.dir / "showing.jsonl"

    @property
    def final(self) -> Path:
        return self.dir / "final"

    @property
    def leaving(self) -> Path:
        """The final files, complete, on their way to the outbox: what is gone from here is there."""
        return self.dir / "leaving"

    @property
    def cancel(self) -> Path:
        return self.dir / "cancel"

    @property
    def pause(self) -> Path:
        return self.dir / "pause"

    @property
    def priority(self) -> Path:
        return self.dir / "priority"

    @property
    def expected(self) -> Path:
        """An empty file for each control file that goes with the claimed file and may lie in the inbox still."""
        return self.dir / "expected"

    @property
    def beside(self) -> Path:
        """The control files that came with the claimed file, by their own names, until they are obeyed."""
        return self.dir / "beside"

    @property
    def again(self) -> Path:
        """The sidecar by which its sender wants it to be run, though the same was sent before."""
        return self.dir / f"sidecar{AGAIN}"

    @property
    def resent(self) -> Path:
        """A byte for each time that the same file was sent again."""
        return self.dir / "resent"

    @property
    def parked(self) -> Path:
        """Why the daemon gave up on this batch until somebody says resume."""
        return self.dir / "parked.json"

    @property
    def ended(self) -> Path:
        """What the operator's program is still to hear of the end (`batches.ended`)."""
        return self.dir / "ended.json"

    @property
    def gone(self) -> Path:
        return self.dir.with_name(f"gone-{self.dir.name}")


@dataclass(frozen=True, slots=True)
class Published:
    """`outbox/NAME/`: the part of the spool that belongs to users."""

    dir: Path

    @property
    def status(self) -> Path:
        return self.dir / "status.json"

    @property
    def input(self) -> Path:
        """The accepted requests, unpacked: a second name of the batch's own file (`results.keep_input`)."""
        return self.dir / "input.jsonl"

    @property
    def parts(self) -> Path:
        return self.dir / "parts"

    @property
    def results(self) -> Path:
        return self.dir / "results.jsonl"

    @property
    def errors(self) -> Path:
        return self.dir / "errors.jsonl"

    def retry(self, slug: str = "") -> Path:
        """What may be sent again: where the file's name said by `slug` which model answers, its name says so too."""
        return self.dir / (f"retry@{slug}.jsonl" if slug else "retry.jsonl")

    @property
    def receipt(self) -> Path:
        return self.dir / "receipt.json"

    def autopsy(self, number: int) -> Path:
        """What a hung engine was doing before it was killed, for the `number`-th (1-based) on this batch."""
        return self.dir / f"autopsy-{number}.txt"


# What the daemon writes into outbox/NAME, beside the file that it hands back; below it is what `spool/parts` names.
_OURS = re.compile(
    r"\.?(status\.json|(input|results|errors|retry(@[\w.-]+)?)\.jsonl|autopsy-\d+\.txt)(\.new)?|\.receipt\.json\.new"
)


def is_ours(filename: str) -> bool:
    """Say whether a file in a batch's folder, the receipt apart, is one that only the daemon writes."""
    return bool(_OURS.fullmatch(filename))


def is_batch_file(filename: str) -> bool:
    """Say whether users mean `filename` as a batch: not hidden, not an upload's temporary name."""
    return filename.endswith(SUFFIXES) and not filename.startswith(".")


def suffix_of(filename: str) -> str:
    """Return the one of SUFFIXES that `filename` ends with; "" where it ends with none."""
    return next((suffix for suffix in SUFFIXES if filename.endswith(suffix)), "")


def is_sidecar(filename: str) -> bool:
    """Say whether `filename` says something of another file: that it is complete, or is to be run again."""
    return any(filename.endswith(s) and is_batch_file(filename.removesuffix(s)) for s in SIDECARS)


def is_unfinished(filename: str) -> bool:
    return filename.startswith(".") or filename.endswith(_UNFINISHED)


def control_of(filename: str) -> tuple[str, str] | None:
    """Split ``NAME.cancel`` into ``("NAME", "cancel")``; None where the file is no control file."""
    if filename.startswith("."):
        return None
    for suffix in (*CONTROLS, DELETE):
        if filename.endswith(suffix) and len(filename) > len(suffix):
            return batch_name(filename.removesuffix(suffix)), suffix[1:]
    return None


def batch_name(filename: str) -> str:
    """Return the name in the outbox for a dropped file: its stem, with what no folder name should carry replaced.

    Control characters, slashes and bytes that are not UTF-8 become ``_``, a leading dot too; long names are cut. A
    letter with its mark is one character (NFC), as keyboards make it, whatever the sender's file system made of it: two
    names that look alike are one, and the second batch of it gets a number. A file in the inbox that is called after a
    batch gives that batch's name again.
    """
    stem = unicodedata.normalize("NFC", shown(filename.removesuffix(suffix_of(filename))))
    stem = _fit_for_a_folder(stem.replace("/", "_").strip().encode()[:NAME_LIMIT].decode(errors="ignore"))
    return stem or "batch"


def _fit_for_a_folder(name: str) -> str:
    return re.sub(r"^\.", "_", shown(name).replace("/", "_").strip())
