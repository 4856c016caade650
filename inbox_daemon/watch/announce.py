"""Tells of alerts: the journal, SPOOL/alerts.jsonl and the operator's own command. Decides nothing.

The command gets each alert as JSON on stdin, in a process of its own, within a deadline; the loop never waits for it.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from inbox_daemon.commands import Commands
from inbox_daemon.errors import SpoolError
from inbox_daemon.journal import Message, of_batch, tell
from inbox_daemon.layout import Spool
from inbox_daemon.records import Severity
from inbox_daemon.spool import alertlog
from inbox_daemon.text import dumps
from inbox_daemon.watch.alerts import Edge

log = logging.getLogger(__name__)

_WAITING = 100  # alerts; the oldest are forgotten before the command drowns the host


class Announcer:
    """Tells everybody who is to hear of alerts."""

    def __init__(self, spool: Spool, command: Sequence[str]) -> None:
        self._spool = spool
        self._waiting: deque[bytes] = deque(maxlen=_WAITING)
        self._commands: Commands[None] = Commands("alerts.command", "alert", command)

    def use(self, command: Sequence[str]) -> None:
        """Run this from now on."""
        self._commands.use(command)

    def say(self, edges: Sequence[Edge], wall: float) -> None:
        """Tell everybody of these edges, which may be those of hundreds of batches. `wall` is in Unix seconds."""
        said = [self._said(edge, wall) for edge in edges]
        try:
            if said:
                alertlog.append(self._spool, *said)
        except (OSError, SpoolError) as error:
            log.warning("alerts.jsonl cannot be written: %s", error)
        if self._commands.command:
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
        self._commands.look(now)
        if not self._commands.command:  # a reload has taken it away
            self._waiting.clear()
        while self._waiting and self._commands.has_room:
            self._commands.start(self._waiting.popleft(), None, now)

    def finish(self, within: float) -> None:
        """Before the daemon ends: give the commands so many seconds, and end them."""
        until = time.monotonic() + within
        while (self._commands.busy or self._waiting) and time.monotonic() < until:
            self.look(time.monotonic())
            time.sleep(0.02)
        self._commands.kill()
