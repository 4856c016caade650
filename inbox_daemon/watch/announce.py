"""Tells of alerts: the journal, SPOOL/alerts.jsonl and the operator's own command. Decides nothing.

The command gets each alert as JSON on stdin, in a process of its own, within a deadline; the loop never waits for it.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from inbox_daemon.errors import SpoolError
from inbox_daemon.journal import Message, of_batch, tell
from inbox_daemon.layout import Spool
from inbox_daemon.privacy import without_input
from inbox_daemon.records import Severity
from inbox_daemon.spool import alertlog
from inbox_daemon.text import dumps
from inbox_daemon.watch.alerts import Edge

log = logging.getLogger(__name__)

_WITHIN = 30.0  # seconds for one run of the command
_AT_A_TIME = 4
_WAITING = 100  # alerts; the oldest are forgotten before the command drowns the host


@dataclass(frozen=True, slots=True)
class _Running:
    process: subprocess.Popen[bytes]
    until: float


class Announcer:
    """Attributes: command: a program and its arguments; empty for none."""

    def __init__(self, spool: Spool, command: Sequence[str]) -> None:
        self._spool = spool
        self._waiting: deque[bytes] = deque(maxlen=_WAITING)
        self._running: list[_Running] = []
        self.use(command)

    def use(self, command: Sequence[str]) -> None:
        """Run this from now on; say at once, not with the first alert, that it cannot be run."""
        self.command = command
        if command and shutil.which(command[0]) is None:
            log.error("alerts.command: %s: no such program, or not executable; it hears of no alert", command[0])

    def say(self, edges: Sequence[Edge], wall: float) -> None:
        """Tell everybody of these edges, which may be those of hundreds of batches. `wall` is in Unix seconds."""
        said = [self._said(edge, wall) for edge in edges]
        try:
            if said:
                alertlog.append(self._spool, *said)
        except (OSError, SpoolError) as error:
            log.warning("alerts.jsonl cannot be written: %s", error)
        if self.command:
            self._waiting += [dumps(one) + b"\n" for one in said]
        for edge in edges:
            self._log(edge)

    @staticmethod
    def _said(edge: Edge, wall: float) -> dict[str, Any]:
        alert = edge.alert
        return {
            "alert": alert.name.value,
            "state": "raised" if edge.raised else "cleared",
            "at": round(wall, 1),
            **{key: value for key, value in asdict(alert).items() if key != "name"},
            "lasted": None if edge.raised else round(edge.lasted, 1),
            "host": socket.gethostname(),
        }

    @staticmethod
    def _log(edge: Edge) -> None:
        alert = edge.alert
        logger = of_batch(log, alert.batch) if alert.batch else log
        where = f"{alert.batch}: " if alert.batch else ""
        if not edge.raised:
            cleared = tell(Message.ALERT_CLEARED, INBOX_ALERT=alert.name)
            logger.info("alert cleared: %s: %safter %.0f s", alert.name, where, edge.lasted, extra=cleared)
            return
        level = logging.CRITICAL if alert.severity is Severity.CRITICAL else logging.WARNING
        raised = tell(Message.ALERT_RAISED, INBOX_ALERT=alert.name)
        logger.log(level, "alert: %s: %s%s", alert.name, where, alert.text, extra=raised)

    def look(self, now: float) -> None:
        """See after the commands that run, and start those that wait. `now` is monotonic seconds."""
        for one in list(self._running):
            if one.process.poll() is not None:
                self._running.remove(one)
                self._judge(one.process)
            elif now > one.until:
                with suppress(ProcessLookupError):
                    os.killpg(one.process.pid, signal.SIGKILL)
        if not self.command:  # a reload has taken it away
            self._waiting.clear()
        while self._waiting and len(self._running) < _AT_A_TIME:
            self._start(self._waiting.popleft(), now)

    def finish(self, within: float) -> None:
        """Before the daemon ends: give the commands so many seconds, and end them."""
        until = time.monotonic() + within
        while (self._running or self._waiting) and time.monotonic() < until:
            self.look(time.monotonic())
            time.sleep(0.02)
        for one in self._running:
            with suppress(ProcessLookupError):
                os.killpg(one.process.pid, signal.SIGKILL)

    def _start(self, said: bytes, now: float) -> None:
        try:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            log.error("alerts.command: %s: %s", shlex.join(self.command), error.strerror)
            return
        assert process.stdin is not None and process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        os.set_blocking(process.stdin.fileno(), False)
        with suppress(OSError):  # one that has ended already shows by its status
            os.write(process.stdin.fileno(), said)  # into an empty pipe, which holds 64 KiB
        with suppress(OSError):
            process.stdin.close()
        self._running.append(_Running(process, now + _WITHIN))

    def _judge(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        words = ""
        with suppress(OSError):
            words = os.read(process.stderr.fileno(), 4096).decode(errors="replace").strip().rpartition("\n")[2][:200]
        process.stderr.close()
        if process.returncode == -signal.SIGKILL:
            words = words or f"killed; it has {_WITHIN:.0f} s"
        if process.returncode:
            command, status = shlex.join(self.command), process.returncode
            log.error("alerts.command: %s ended with %d: %s", command, status, without_input(words))
