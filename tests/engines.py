"""The processes of a daemon's vLLM, and the one daemon that many tests share. No test lives here."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import psutil
from running import Daemon, eventually

from inbox_daemon.layout import Spool
from inbox_daemon.spool import published

LOADED = 400.0  # seconds within which an engine answers, on a machine that does other things too
ENDED = 60.0  # seconds within which killed processes are gone
IN_FLIGHT = 200
SHARED = {
    "INBOX_DAEMON_ENGINE__PRELOAD": "true",
    "INBOX_DAEMON_ENGINE__IN_FLIGHT": str(IN_FLIGHT),
    "INBOX_DAEMON_RESULTS__SEAL_EVERY": "1",  # so that what is counted can be read in the parts
    "INBOX_DAEMON_INBOX__MAX_LINE_BYTES": "4096",  # for one of the faults of `mixed`
}


def engine_views(daemon: Daemon) -> list[dict[str, Any]]:
    """What this daemon says that its engines are doing; [] while it has not said anything."""
    said = published.daemons(Spool(daemon.spool))
    return next((list(one["engines"]) for one in said if one["pid"] == daemon.process.pid), [])


def engine_view(daemon: Daemon) -> dict[str, Any]:
    """The same of the first engine; {} while there is nothing."""
    return next(iter(engine_views(daemon)), {})


def process(daemon: Daemon, words: str) -> psutil.Process | None:
    """The process among the daemon's descendants that has these words in its title or command."""
    for one in daemon.family():
        with suppress(psutil.Error):
            if words in " ".join([one.name(), *one.cmdline()]):
                return one
    return None


def ours(one: psutil.Process) -> bool:
    """Whether this process was started by this pytest, or lost its parent."""
    with suppress(psutil.Error):
        return one.ppid() == 1 or os.getpid() in [parent.pid for parent in one.parents()]
    return False


class Engines:
    """All processes of a daemon's engine at one moment, and what is left of them later.

    They are known by their session, which the worker begins, so one that was started in between is found as well.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._known = [one for one in daemon.family() if "inbox_daemon.machine.nvml" not in one.cmdline()]
        self._sessions = {os.getsid(one.pid) for one in self._known} - {os.getsid(daemon.process.pid)}
        assert self._known and self._sessions

    def left(self) -> list[psutil.Process]:
        return [one for one in {*self._known, *psutil.process_iter()} if self._is_of_them(one)]

    def _is_of_them(self, one: psutil.Process) -> bool:
        with suppress(psutil.Error, ProcessLookupError):
            if one.is_running() and one.status() != psutil.STATUS_ZOMBIE:
                return one in self._known or os.getsid(one.pid) in self._sessions
        return False

    def end_soon(self) -> None:
        eventually(lambda: not self.left(), ENDED, "the engine's processes are gone")


class Shared:
    """The daemon that most tests share; started anew after a test that ended it."""

    def __init__(self, folder: Path, model: Path) -> None:
        self._folder, self._model = folder, model
        self._starts = 0
        self._daemon: Daemon | None = None

    def running(self) -> Daemon:
        """The daemon, with its engine loaded though nothing was dropped: that is what preload means."""
        if self._daemon is None or self._daemon.process.poll() is not None:
            self._starts += 1
            log = self._folder / f"daemon-{self._starts}.log"
            arguments = ["--model", str(self._model)]
            self._daemon = Daemon(self._folder / "spool", log, kind="vllm", arguments=arguments, environment=SHARED)
        daemon = self._daemon
        eventually(lambda: engine_view(daemon).get("state") == "ready", LOADED, f"engine loaded; see {daemon.log}")
        return daemon

    def end(self) -> None:
        if self._daemon is not None:
            with suppress(subprocess.TimeoutExpired):
                self._daemon.stop()
            self._daemon.kill()


def proven(folder: Path, original: Path) -> None:
    """`inbox-daemon verify` agrees."""
    command = [sys.executable, "-m", "inbox_daemon", "verify", str(folder), "--input", str(original)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def receipt_of(folder: Path) -> dict[str, Any]:
    return dict(orjson.loads((folder / "receipt.json").read_bytes()))
