"""The operator's own programs, which get JSON on stdin: run one, within a deadline, and never wait for it.

Each is a process of its own in a session of its own. Decides nothing: who runs what, and when, others say.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from inbox_daemon.privacy import without_input

log = logging.getLogger(__name__)

WITHIN = 30.0  # seconds for one run
_AT_A_TIME = 4

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Running(Generic[T]):
    process: subprocess.Popen[bytes]
    until: float
    about: T


class Commands(Generic[T]):
    """The runs of one program.

    Args:
        setting: the setting that names it, for the log.
        hears: what it hears of, for the log.

    Attributes:
        command: a program and its arguments; empty for none.
    """

    def __init__(self, setting: str, hears: str, command: Sequence[str]) -> None:
        self._setting, self._hears = setting, hears
        self._running: list[_Running[T]] = []
        self.command: Sequence[str] = ()
        self.use(command)

    def use(self, command: Sequence[str]) -> None:
        """Run this from now on; say at once, not with the first run, that it cannot be run."""
        self.command = command
        if command and shutil.which(command[0]) is None:
            words = (self._setting, command[0], self._hears)
            log.error("%s: %s: no such program, or not executable; it hears of no %s", *words)

    @property
    def has_room(self) -> bool:
        return len(self._running) < _AT_A_TIME

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def start(self, said: bytes, about: T, now: float) -> bool:
        """Begin a run; say whether it has begun. `said` is at most 64 KiB, `now` monotonic seconds."""
        try:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            log.error("%s: %s: %s", self._setting, shlex.join(self.command), error.strerror)
            return False
        assert process.stdin is not None and process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        os.set_blocking(process.stdin.fileno(), False)
        with suppress(OSError):  # one that has ended already shows by its status
            os.write(process.stdin.fileno(), said)  # into an empty pipe, which holds 64 KiB
        with suppress(OSError):
            process.stdin.close()
        self._running.append(_Running(process, now + WITHIN, about))
        return True

    def look(self, now: float) -> list[T]:
        """See after those that run; return what those were about that have ended."""
        ended = []
        for one in list(self._running):
            if one.process.poll() is not None:
                self._running.remove(one)
                self._judge(one.process)
                ended.append(one.about)
            elif now > one.until:
                with suppress(ProcessLookupError):
                    os.killpg(one.process.pid, signal.SIGKILL)
        return ended

    def kill(self) -> None:
        """End those that run, and wait for none of them."""
        for one in self._running:
            with suppress(ProcessLookupError):
                os.killpg(one.process.pid, signal.SIGKILL)

    def _judge(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        words = ""
        with suppress(OSError):
            words = os.read(process.stderr.fileno(), 4096).decode(errors="replace").strip().rpartition("\n")[2][:200]
        process.stderr.close()
        if process.returncode == -signal.SIGKILL:
            words = words or f"killed; it has {WITHIN:.0f} s"
        if process.returncode:
            command, status = shlex.join(self.command), process.returncode
            log.error("%s: %s ended with %d: %s", self._setting, command, status, without_input(words))
