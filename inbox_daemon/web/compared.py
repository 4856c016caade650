"""The page that `inbox-daemon compare --html` makes, made by it: a process of its own reads the answers once more."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from inbox_daemon.web.wrong import NO_RETRY, Wrong

_SECONDS = 300.0
_one = threading.Lock()


def page(folders: Sequence[Path]) -> bytes:
    """Return the page.

    Raises:
        Wrong: there are not two batches, one has not ended, another page is being made, or it takes too long.
    """
    if len(folders) < 2:
        raise Wrong(400, "name two batches at least", None, "b")
    if not _one.acquire(blocking=False):
        raise Wrong(429, "another comparison is being made; ask again", "busy", headers={"Retry-After": "10"})
    try:
        return _made(folders)
    finally:
        _one.release()


def _made(folders: Sequence[Path]) -> bytes:
    with tempfile.TemporaryDirectory(prefix="inbox-daemon-compare-") as folder:
        file = Path(folder) / "comparison.html"
        command = [
            "nice",
            sys.executable,
            "-P",
            "-m",
            "inbox_daemon",
            "compare",
            *map(str, folders),
            "--html",
            str(file),
        ]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False, text=True
            )
        except subprocess.TimeoutExpired as error:
            raise Wrong(503, f"the comparison takes longer than {_SECONDS:.0f} s", headers=NO_RETRY) from error
        if done.returncode:
            why = (done.stderr.strip() or "it ended without a word").splitlines()[-1]
            raise Wrong(409, f"these batches cannot be compared: {why}", headers=NO_RETRY)
        return file.read_bytes()
