"""A daemon to be hurt: a real `inbox-daemon run` with a spool, a log and an engine of its own, gone when it is stopped.

Owns the processes it starts, known by their ids and sessions, and nothing else: never touches a daemon or an engine
that was there before. Judges nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import orjson
import psutil

from inbox_daemon.layout import Spool
from inbox_daemon.machine.parent import tie_to_parent
from inbox_daemon.records import BatchStatus
from inbox_daemon.spool import drop, files, published, views
from inbox_daemon.spool.shapes import BatchObject, EngineView

T = TypeVar("T")

STALL_AFTER = 20.0  # seconds until a hang is noticed; far more than any engine needs for a token of these requests
_TOKENS = 64  # enough for a kill to arrive in the middle, however fast the engine
_POLL = 0.1
_POLL_CLOSELY = 0.01  # where the moment matters
_GONE_WITHIN = 15.0
LOG = "daemon.log"
_DISK = 16 << 20  # bytes of the disk that is filled, without what the batch needs


def _environment(requests: int, temporary: Path) -> dict[str, str]:
    """What the checks need to be quick and to see progress; all else is as the user has set it."""
    own = {
        "INBOX__SETTLE": 0.2,
        "INBOX__SETTLE_UNPROVEN": 0.4,
        "INBOX__RESCAN": 1.0,
        "INBOX__REQUIRE_SIDECAR": "false",
        "ENGINE__IN_FLIGHT": max(1, min(16, requests // 4)),
        "ENGINE__PRELOAD": "true",
        "ENGINE__IDLE_UNLOAD": 0.0,
        "ENGINE__STALL_AFTER": STALL_AFTER,
        "ENGINE__MAX_DEATHS": 30,
        "ENGINE__NULL__RATE": requests / 6,
        "RESULTS__SYNC_EVERY": 1,
        "RESULTS__SEAL_EVERY": max(1, requests // 60),
        "RESULTS__KEEP_FREE": 1 << 20,
        "DAEMON__LOG_LEVEL": "info",
        "ALERTS__COMMAND": "[]",  # nobody is to be called, and the service's metrics are its own
        "METRICS__PORT": 0,
        "METRICS__TEXTFILE": "",
    }
    ours = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM")  # the log is a file here
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    return inherited | {f"INBOX_DAEMON_{name}": str(value) for name, value in own.items()} | {"TMPDIR": str(temporary)}


class TooLate(TimeoutError):
    """A batch was over before anything could be done to it: the engine is fast, or this process was kept waiting."""

    def __init__(self) -> None:
        super().__init__("the batch was over before anything could be done to it; give more --requests")


class Rig:
    """One spool and the daemon on it, started by `ready` and again after `kill_daemon`.

    Every method may raise TimeoutError, or ChildProcessError when the daemon or its engine cannot run.

    Args:
        folder: the rig's own, empty; on the disk where the spool is to be.
        temporary: holds the log, and temporary files of the engine; vLLM needs a short path.
        arguments: for `inbox-daemon run`, as the user gave them.
        mounts: from `unshared`: the spool is on a small disk in memory that ends with the daemon. [] where it is not.
    """

    def __init__(
        self, folder: Path, temporary: Path, arguments: Sequence[str], requests: int, mounts: Sequence[str]
    ) -> None:
        self.requests = requests
        self.load_seconds = 0.0
        self._folder, self._temporary, self._arguments, self._mounts = folder.resolve(), temporary, arguments, mounts
        self._log = temporary / LOG
        self._root = self._folder / "spool"
        self._root.mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._sessions: set[int] = set()  # that the engine of the daemon killed last ran in

    # -- the daemon

    @property
    def pid(self) -> int:
        assert self._process is not None, "ready comes first"
        return self._process.pid

    @property
    def spool(self) -> Spool:
        """The spool as this process reaches it, whatever mounts the daemon has."""
        return Spool(Path(f"/proc/{self.pid}/root{self._root}") if self._mounts else self._root)

    def ready(self, load_timeout: float) -> None:
        """Have the daemon running with its engine loaded; seconds."""
        if self._process is None:
            self.start()
        began = time.monotonic()
        self.wait(self._loaded, load_timeout + 60, "the engine is loaded")
        self.load_seconds = max(self.load_seconds, time.monotonic() - began)

    def _loaded(self) -> bool:
        """Whether every engine answers. Raises ChildProcessError where one died before it ever did."""
        engines = [view for view in self.engines() if view["state"] != "off"]  # models whose turn it is not
        for view in engines:
            if view.get("last_death") and not view.get("version"):
                raise ChildProcessError(f"the engine does not load: {view['last_death']}")
        return bool(engines) and all(view["state"] == "ready" for view in engines)

    def start(self) -> None:
        """Start the daemon and wait until it takes files."""
        command = [sys.executable, "-P", "-m", "inbox_daemon", "run", "--spool", str(self._root), *self._arguments]
        if self._mounts:
            size = str(_DISK + self.requests * (1 << 14))
            script = 'mount -t tmpfs -o "size=$1" selftest "$2" && shift 2 && exec "$@"'
            command = [*self._mounts, "sh", "-c", script, "sh", size, str(self._root), *command]
        since = self.mark()
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_environment(self.requests, self._temporary),
                start_new_session=True,  # a terminal's Ctrl-C is for the one who watches
                preexec_fn=tie_to_parent,  # noqa: PLW1509  no other thread runs here
            )
        self.wait(lambda: "ready: drop files into" in self.said(since), 60, "the daemon takes files")

    def kill_daemon(self) -> set[int]:
        """kill -9; return the sessions that its engine ran in."""
        if self._process is not None:
            self._sessions = set()
            with suppress(psutil.NoSuchProcess):
                children = psutil.Process(self.pid).children()
                self._sessions = {child.pid for child in children if _session(child.pid) == child.pid}
            self._process.kill()
            self._process.wait()
            self._process = None
        return self._sessions

    def stop(self) -> None:
        """End the daemon and every process of its engine."""
        sessions = self.kill_daemon()
        deadline = time.monotonic() + _GONE_WITHIN
        while (over := left(sessions)) and time.monotonic() < deadline:
            for pid in over:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_POLL)

    # -- what it says

    def mark(self) -> int:
        """Return where the log ends now, for `said`."""
        return self._log.stat().st_size

    def said(self, since: int) -> str:
        with self._log.open("rb") as log:
            log.seek(since)
            return log.read().decode(errors="replace")

    def ended(self) -> str:
        """Say how the daemon ended by itself; "" where it did not."""
        if self._process is None or (status := self._process.poll()) is None:
            return ""
        return f"the daemon ended with exit status {status}: {(self.said(0).strip() or '?').splitlines()[-1]}"

    def engines(self, since: float = 0.0) -> Sequence[EngineView]:
        """What the daemon says of its engines; nothing where it has not said anything since these Unix seconds."""
        said = (one for one in published.daemons(self.spool) if one["pid"] == self.pid and one.get("at", 0) > since)
        return next((views.engines_of(one) for one in said), ())

    def wait(self, look: Callable[[], T | None], within: float, what: str, poll: float = _POLL) -> T:
        """Return the first true value of `look`."""
        deadline = time.monotonic() + within
        while not (value := look()):
            if sentence := self.ended():
                raise ChildProcessError(sentence)
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {within:.0f} s in vain until {what}")
            time.sleep(poll)
        return value

    # -- a batch

    def original(self, name: str) -> Path:
        return self._folder / f"{name}.jsonl"

    def drop(self, name: str) -> None:
        body = {"max_tokens": _TOKENS, "ignore_eos": True}
        with self.original(name).open("wb") as file:
            for i in range(self.requests):
                asked = body | {"messages": [{"role": "user", "content": f"Tell me about the number {i}."}]}
                line = {"custom_id": f"{name}-{i}", "method": "POST", "url": "/v1/chat/completions", "body": asked}
                file.write(orjson.dumps(line) + b"\n")
        drop.drop(self.spool, self.original(name))

    def answers(self, name: str) -> set[bytes]:
        """The output lines that users can see by now."""
        lines: set[bytes] = set()
        with suppress(FileNotFoundError):
            for part in self.spool.batch(name).parts.glob("part-*.jsonl"):
                lines.update(part.read_bytes().splitlines())
        return lines

    def middle(self, name: str) -> set[bytes]:
        """Wait for the middle of the batch; return the answers that are there."""
        enough = max(1, self.requests // 4)
        far = lambda: len(self.answers(name)) >= enough  # noqa: E731
        self.wait(far, self._patience, f"{enough} requests of {name} are answered", _POLL_CLOSELY)
        found = self.answers(name)
        if len(found) >= self.requests:
            raise TooLate
        return found

    def is_over(self, name: str) -> bool:
        """Whether the batch has ended."""
        return self._progress(name)[0].final

    def finished(self, name: str) -> BatchObject:
        """Wait until the batch has its receipt, which comes last of all, as long as answers come; return its status."""
        while not (before := self._progress(name))[0].final:
            self.wait(partial(self._has_moved, name, before), self._patience, f"{name} advances: {before}")
        self.wait(self.spool.batch(name).receipt.exists, self._patience, f"{name} has its receipt")
        status = published.status(self.spool, name)
        assert status is not None, "its status says that it has ended"
        return status

    def _has_moved(self, name: str, before: tuple[BatchStatus, int]) -> bool:
        return self._progress(name) != before

    def _progress(self, name: str) -> tuple[BatchStatus, int]:
        status = published.status(self.spool, name)
        return BatchStatus(status["status"] if status else "validating"), len(self.answers(name))

    @property
    def _patience(self) -> float:
        return 120 + 3 * self.load_seconds

    # -- what can be hurt

    def worker(self) -> psutil.Process:
        for child in psutil.Process(self.pid).children():
            if "inbox_daemon.engine.worker" in child.cmdline():
                return child
        raise ChildProcessError("the daemon has no engine to do this to")

    def core(self) -> psutil.Process:
        """EngineCore, or what vLLM calls the process that computes."""
        children = self.worker().children(recursive=True)
        own = [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]
        cores = [child for child in own if "EngineCore" in " ".join([child.name(), *child.cmdline()])]
        if not own:
            raise ChildProcessError("vLLM runs no process of its own here")
        return (cores or own)[0]

    def fill_disk(self) -> None:
        """Write a file until there is no room for another byte."""
        assert self._mounts, "only ever a disk of our own"
        block = bytes(1 << 16)
        with (self.spool.root / "rival").open("ab", buffering=0) as rival, suppress(OSError):
            while True:
                rival.write(block)

    def free_disk(self) -> None:
        files.remove(self.spool.root / "rival")


def left(sessions: set[int]) -> list[int]:
    """Return the processes of these sessions that are alive."""
    found = [one for one in psutil.process_iter(["status"]) if one.info["status"] != psutil.STATUS_ZOMBIE]
    return [one.pid for one in found if _session(one.pid) in sessions]


def _session(pid: int) -> int | None:
    with suppress(ProcessLookupError):
        return os.getsid(pid)
    return None
