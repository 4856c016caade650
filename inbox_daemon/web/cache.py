"""The cache folder: which segments there are, having missing ones built, and letting the oldest go.

Nothing here is needed: what was thrown away, or is damaged, is built again. A segment belongs to a file by inode, size
and mtime, so that a file that was replaced has another one. One child at a time builds (`segments`).
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from weakref import WeakValueDictionary

import numpy as np
import orjson
from numpy.typing import NDArray

from inbox_daemon.text import dumps
from inbox_daemon.web.segments import VERSION, Meta

ROWS = np.dtype(
    {
        "names": [
            *("key", "digest", "offset", "text", "length", "place"),
            *("characters", "input_tokens", "output_tokens", "flags", "form"),
        ],
        "formats": [*["<u8"] * 4, *["<u4"] * 5, *["u1"] * 2],
        "itemsize": 56,
    }
)
VALUES = np.dtype([("row", "<u4"), ("field", "<u4"), ("hash", "<u8"), ("number", "<f8")])
PROMPTS = np.dtype({"names": ["key", "offset", "length"], "formats": ["<u8", "<u8", "<u4"], "itemsize": 24})

_NEW = ".new-"  # how a folder's name begins while it is built
_AT_ONCE = 64  # jobs of one child
_AGAIN_AFTER = 10.0  # seconds in which what could not be built is not tried again
_STALE = 24 * 3600.0  # seconds after which a folder that nobody finished is thrown away


class Damaged(Exception):
    """A segment is not what was written; it is to be built again."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file of a batch as it is now.

    Attributes:
        prompts: it is a batch's input, and not what was answered.
    """

    path: Path
    inode: int
    size: int
    mtime_ns: int
    prompts: bool = False

    @classmethod
    def at(cls, path: Path, *, prompts: bool = False) -> Source | None:
        """Return the file at a path; None where there is none, or something else than a file."""
        try:
            found = path.lstat()
        except OSError:
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        return cls(path, found.st_ino, found.st_size, found.st_mtime_ns, prompts)

    @property
    def key(self) -> str:
        kind = "input" if self.prompts else "said"
        return f"{kind}-{self.inode:x}-{self.size:x}-{self.mtime_ns:x}-{VERSION}"


class Segment:
    """One segment, read: its rows in memory, its values and text on the disk.

    Attributes:
        rows: of dtype ROWS, or PROMPTS for a batch's input.
    """

    def __init__(self, folder: Path, source: Source) -> None:
        """Raises Damaged."""
        self.folder, self.source = folder, source
        try:
            self.meta = cast(Meta, orjson.loads((folder / "meta.json").read_bytes()))
            if self.meta["version"] != VERSION:
                raise Damaged
            for name, (length, _) in self.meta["files"].items():
                if (folder / name).stat().st_size != length:
                    raise Damaged(name)
            self.rows = self._records("rows", PROMPTS if source.prompts else ROWS)
            self._text_is_whole = False
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(str(error)) from error

    def values(self) -> NDArray[Any]:
        """Return the values of all fields, of dtype VALUES. Raises Damaged."""
        return self._records("values", VALUES)

    def _records(self, name: str, kind: np.dtype[Any]) -> NDArray[Any]:
        length, crc = self.meta["files"][name]
        try:
            found = np.fromfile(self.folder / name, np.uint8)
        except OSError as error:
            raise Damaged(name) from error
        if len(found) != length or zlib.crc32(found.data) != crc or length % kind.itemsize:
            raise Damaged(name)
        return found.view(kind)

    def texts(self, lines: Iterable[int], most: int) -> list[str]:
        """Return the beginnings of some lines' texts, in lower case. Raises Damaged."""
        try:
            with open(self.folder / "text", "rb", 0) as file:
                found = [os.pread(file.fileno(), most, int(self.rows["text"][line])) for line in lines]
        except OSError as error:
            raise Damaged("text") from error
        return [text.partition(b"\0")[0].decode(errors="ignore") for text in found]

    def text(self) -> Path:
        """Return the file of the texts. Raises Damaged; its checksum is looked at once."""
        path = self.folder / "text"
        if not self._text_is_whole:
            crc = 0
            try:
                with open(path, "rb", 0) as file:
                    while block := file.read(1 << 22):
                        crc = zlib.crc32(block, crc)
            except OSError as error:
                raise Damaged("text") from error
            if crc != self.meta["files"]["text"][1]:
                raise Damaged("text")
            self._text_is_whole = True
        return path


class Cache:
    """The cache folder of one web process; its methods may be called by any thread."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        """`folder` is made when it is needed; `most_bytes` is what all segments together may take."""
        self._folder, self._most = folder / "index", most_bytes
        self._open: WeakValueDictionary[str, Segment] = WeakValueDictionary()
        self._lock = threading.Lock()
        self._asked: dict[str, Source] = {}  # not built yet
        self._read: dict[str, int] = {}  # bytes of those that are
        self._failed: dict[str, tuple[float, str]] = {}  # when, and why
        self._builder: threading.Thread | None = None

    def has(self, source: Source) -> bool:
        """Say whether there is a segment of a file, sound or not; costs next to nothing."""
        with self._lock:
            if source.key in self._open:
                return True
        return (self._folder / source.key).exists()

    def segment(self, source: Source) -> Segment | None:
        """Return a file's segment; None where there is none, or only a damaged one, which then goes."""
        with self._lock:
            if (found := self._open.get(source.key)) is not None:
                return found
        place = self._folder / source.key
        try:
            found = Segment(place, source)
        except Damaged:
            self.forget(source)
            return None
        with suppress(OSError):
            os.utime(place)  # when it was last of use
        with self._lock:
            self._open[source.key] = found
        return found

    def forget(self, source: Source) -> None:
        """Throw a file's segment away."""
        with self._lock:
            self._open.pop(source.key, None)
        shutil.rmtree(self._folder / source.key, ignore_errors=True)

    def ask(self, sources: Iterable[Source]) -> None:
        """Have segments built, and return at once."""
        now = time.monotonic()
        with self._lock:
            for source in sources:
                if now - self._failed.get(source.key, (-_AGAIN_AFTER, ""))[0] >= _AGAIN_AFTER:
                    self._failed.pop(source.key, None)
                    self._asked.setdefault(source.key, source)
            if self._asked and self._builder is None:
                self._builder = threading.Thread(target=self._build, name="viewer index", daemon=True)
                self._builder.start()

    def why_not(self, sources: Iterable[Source]) -> str | None:
        """Return why one of these could not be built the last time; None where nothing is known of that."""
        with self._lock:
            return next((self._failed[source.key][1] for source in sources if source.key in self._failed), None)

    def read_of(self, source: Source) -> int:
        """Return how many bytes of a file that is being read were read."""
        with self._lock:
            return self._read.get(source.key, 0)

    def _build(self) -> None:
        """Run children until nothing is asked for. A child dies with the thread that has started it: this one."""
        while True:
            with self._lock:
                jobs = list(self._asked.values())[:_AT_ONCE]
                if not jobs:
                    self._builder = None
                    return
            try:
                self._run(jobs)
            except OSError as error:
                self._settle(jobs, f"{error.strerror}: {error.filename or self._folder}")
            self._prune({job.key for job in jobs})

    def _run(self, jobs: Sequence[Source]) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        said = [
            {
                "source": str(job.path),
                "into": str(self._folder / f"{_NEW}{uuid.uuid4().hex}"),
                "place": str(self._folder / job.key),
                "prompts": job.prompts,
            }
            for job in jobs
        ]
        command = [sys.executable, "-P", "-m", "inbox_daemon.web.segments"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdin is not None and child.stdout is not None
            with suppress(BrokenPipeError):
                child.stdin.write(dumps({"jobs": said}))
                child.stdin.close()
            for line in child.stdout:
                number, what, news = orjson.loads(line)
                if what == "read":
                    with self._lock:
                        self._read[jobs[number].key] = news
                else:
                    self._settle([jobs[number]], news)
        left = [job for job in jobs if job.key in self._asked]
        self._settle(left, f"the process that reads answers ended with {child.returncode}")
        for job in said:
            shutil.rmtree(str(job["into"]), ignore_errors=True)

    def _settle(self, jobs: Iterable[Source], why: str | None) -> None:
        with self._lock:
            for job in jobs:
                self._asked.pop(job.key, None)
                self._read.pop(job.key, None)
                if why:
                    self._failed[job.key] = (time.monotonic(), why)

    def _prune(self, keep: set[str]) -> None:
        """Throw away what was of use longest ago, until the rest fits; and what a child that was killed has left."""
        found: list[tuple[float, int, Path]] = []
        with suppress(OSError):
            for entry in list(os.scandir(self._folder)):
                used = entry.stat().st_mtime
                if entry.name.startswith(_NEW) and time.time() - used > _STALE:
                    shutil.rmtree(entry.path, ignore_errors=True)
                elif not entry.name.startswith(_NEW):
                    found.append((used, _size(Path(entry.path)), Path(entry.path)))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._most:
                break
            if path.name not in keep:
                shutil.rmtree(path, ignore_errors=True)
                total -= size


def _size(folder: Path) -> int:
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder))
    except OSError:
        return 0
