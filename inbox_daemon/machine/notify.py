"""Tells systemd how the service is: ready, alive, what it does, that it stops (sd_notify(3)).

A datagram to $NOTIFY_SOCKET; without one every call does nothing. Children never inherit the socket.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress

_STATUS_EVERY = 1.0  # seconds


class Notifier:
    """Attributes: watchdog: seconds between beats that systemd asks for (half of WatchdogSec), or None."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        for_us = environment.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog = int(microseconds) / 2e6 if microseconds and for_us else None
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._last_beat = float("-inf")
        self._last_status, self._status_at = "", float("-inf")

    def ready(self) -> None:
        self._send("READY=1")

    def reloading(self) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, within: float) -> None:
        """Say that the end has begun and takes at most so many seconds, whatever TimeoutStopSec says."""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(within * 1e6)}")

    def status(self, text: str, now: float) -> None:
        """Show one line in `systemctl status`, a new one at most once a second: systemd tells others of each."""
        if text != self._last_status and now - self._status_at >= _STATUS_EVERY:
            self._last_status, self._status_at = text, now
            self._send(f"STATUS={text}")

    def beat(self, now: float) -> None:
        """Feed the watchdog if a beat is due. To be called only when everything is in order."""
        if self.watchdog and now - self._last_beat >= self.watchdog / 2:
            self._last_beat = now
            self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if self._address:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto(state.encode(), self._address)
