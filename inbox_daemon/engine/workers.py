"""Worker processes, before they are told what to load: started, ended, and kept at hand for the next engine.

Importing vLLM is half of a start where the model's graphs are compiled already, and needs neither GPU nor settings. So
engines that start together import it side by side, before it is known what they load; and once one has worked for a
while, a worker imports it and waits for the next start. It costs 0.6 GB of memory and no GPU.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

log = logging.getLogger(__name__)


class WorkerProcess:
    """A worker with its own socket pair, log and folder for what it leaves behind.

    Attributes:
        socket: our end, not blocking.
        log: the descriptor of what it and its children print, not blocking; -1 once it has been let go of.
        folder: its TMPDIR.

    Args:
        also: what its environment has beside our own.

    Raises:
        OSError: the host has no room for it: processes, descriptors, or space below the daemon's own TMPDIR.
    """

    def __init__(self, also: Mapping[str, str] | None = None) -> None:
        environment = {
            k: v for k, v in os.environ.items() if k not in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        }
        environment |= also or {}
        environment.setdefault("PYTHONUNBUFFERED", "1")
        # A killed engine leaves sockets and files behind. They go with a folder of its own; its path is short, because
        # a socket's may have 107 bytes. What torch compiled is to outlive it, where torch would have put it anyway.
        shared = Path(tempfile.gettempdir()) / f"torchinductor_{os.getuid()}"
        environment.setdefault("TORCHINDUCTOR_CACHE_DIR", str(shared))
        with ExitStack() as undo:
            self.folder = Path(tempfile.mkdtemp(prefix="vllm-"))
            undo.callback(shutil.rmtree, self.folder, ignore_errors=True)
            environment["TMPDIR"] = str(self.folder)
            environment["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] = "0"  # an allowed host could point to any other
            self.socket, theirs = socket.socketpair()
            undo.callback(self.socket.close)
            with theirs:
                self.log, log_write = os.pipe2(os.O_CLOEXEC)
                undo.callback(os.close, self.log)
                try:
                    self.process = subprocess.Popen(
                        [sys.executable, "-P", "-m", "inbox_daemon.engine.worker", str(theirs.fileno())],
                        stdin=subprocess.DEVNULL,
                        stdout=log_write,
                        stderr=log_write,
                        pass_fds=(theirs.fileno(),),
                        env=environment,
                        start_new_session=True,  # one group to kill, and a terminal's Ctrl-C is the daemon's alone
                    )
                finally:
                    os.close(log_write)
            undo.pop_all()
        self.socket.setblocking(False)
        os.set_blocking(self.log, False)

    def kill(self) -> None:
        """End it and all that it started; does not wait for that."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.socket.close()

    def survivors(self) -> list[int]:
        """Return the processes of its group that have not ended, it among them."""
        self.process.poll()
        group = self.process.pid
        return [one.pid for one in psutil.process_iter() if _group(one.pid) == group and not _has_ended(one)]

    def clear(self) -> None:
        """Let go of its log and of what it left behind, once nothing of it survives. Twice is as good as once."""
        self.process.poll()  # nobody else may have reaped it
        if self.log >= 0:
            os.close(self.log)
            self.log = -1  # the number will soon be another file's
        shutil.rmtree(self.folder, ignore_errors=True)


class Workers:
    """Gives workers out, the one at hand first.

    Args:
        spares: whether any are kept at hand.
        environment: what theirs has beside our own.

    Attributes:
        at_once: one is, from the first engine on that is ready: another model may have its turn at any time.
    """

    def __init__(self, spares: bool, environment: Mapping[str, str] | None = None, *, at_once: bool = False) -> None:
        self._keeps_spares, self.at_once = spares, at_once
        self._environment = environment
        self._spares: list[WorkerProcess] = []

    def take(self) -> WorkerProcess:
        while self._spares:
            spare = self._spares.pop()
            if spare.process.poll() is None:
                return spare
            self._end([spare])
        return WorkerProcess(self._environment)

    def prepare(self, count: int) -> None:
        """Have so many at hand and no more, where any are to be."""
        if self._keeps_spares:
            count = max(0, count)
            try:
                while len(self._spares) < count:
                    self._spares.append(WorkerProcess(self._environment))
            except OSError as error:  # an engine can do without, and may be doing well
                self._keeps_spares = False
                log.warning("no worker is kept at hand any more: %s", error)
            self._end(self._spares[count:])
            del self._spares[count:]

    def close(self) -> None:
        self._end(self._spares)
        self._spares.clear()

    @staticmethod
    def _end(spares: list[WorkerProcess]) -> None:
        for spare in spares:
            spare.kill()
            spare.process.wait()
            spare.clear()


def _has_ended(process: psutil.Process) -> bool:
    """Say whether a process is only waiting to be reaped, which PID 1 of many a container never does.

    It holds nothing any more, unless one of its threads is still in a driver.
    """
    with suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
    return True


def _group(pid: int) -> int | None:
    with suppress(ProcessLookupError):
        return os.getpgid(pid)
    return None
