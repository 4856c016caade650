"""Child processes whose every line is stamped as it arrives: what they say are the clocks of `peers`."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent.parent


def environment() -> dict[str, str]:
    """This checkout's inbox_daemon, installed or not."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


class Failed(Exception):
    """A peer ended, or did not do what it was asked; with the end of its log."""


class Talking:
    """A child process; every line it writes is stamped (monotonic seconds) the moment it arrives, and kept in a log."""

    def __init__(self, command: Sequence[object], log: Path) -> None:
        self.began = time.monotonic()
        self.lines: list[tuple[float, str]] = []
        self._log = log
        self._more = threading.Condition()
        self._open = True
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(),
            start_new_session=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        partial = b""
        with self._log.open("wb") as log:
            while data := os.read(self.process.stdout.fileno(), 1 << 16):
                now = time.monotonic()
                log.write(data)
                log.flush()
                *whole, partial = re.split(rb"[\r\n]", partial + data)
                with self._more:
                    self.lines += [(now, line.decode(errors="replace")) for line in whole]
                    self._more.notify_all()
        with self._more:
            self._open = False
            self._more.notify_all()

    def wait(self, pattern: str, within: float, since: int = 0) -> tuple[float, re.Match[str]]:
        """Return the stamp and the match of the first such line after `since` lines."""
        deadline, wanted = time.monotonic() + within, re.compile(pattern)
        with self._more:
            while True:
                for stamp, line in self.lines[since:]:
                    if found := wanted.search(line):
                        return stamp, found
                since = len(self.lines)
                if not self._open:
                    raise Failed(f"it ended before it said {pattern!r}; {self.tail()}")
                if (left := deadline - time.monotonic()) <= 0:
                    raise Failed(f"it did not say {pattern!r} within {within:.0f} s; {self.tail()}")
                self._more.wait(left)

    def tail(self) -> str:
        return f"{self._log}: … " + " | ".join(line for _, line in self.lines[-8:])[-1500:]

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def end(self, grace: float = 0.0) -> None:
        """End it and all that it started, and wait until they are gone, for they hold the GPU.

        Args:
            grace: seconds after SIGTERM to itself, before SIGKILL to all.
        """
        family = self._family()
        if grace:
            self.process.terminate()
            psutil.wait_procs(family, grace)
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(family, 30)
        self.process.wait()

    def _family(self) -> list[psutil.Process]:
        """What it started, and what goes on in its session though it has ended."""
        family = {one for one in psutil.process_iter() if _session(one.pid) == self.process.pid}
        with suppress(psutil.NoSuchProcess):
            family.update(psutil.Process(self.process.pid).children(recursive=True))
        return list(family)


def _session(pid: int) -> int | None:
    with suppress(ProcessLookupError):
        return os.getsid(pid)
    return None
