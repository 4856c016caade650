"""Engines outside the daemon's loop, for a verb that has one of its own: waiting for them, and ending them."""

from __future__ import annotations

import select
import time

from inbox_daemon.engine import Engine
from inbox_daemon.records import Outcome

_TICK = 0.05  # seconds


def receive(*engines: Engine) -> list[Outcome]:
    """Return what they have answered, after a moment's waiting where that is nothing.

    Raises:
        EngineDied, ConfigError: as `Engine.receive`.
    """
    waiting = select.poll()
    for engine in engines:
        if (fd := engine.fileno()) is not None:
            waiting.register(fd, select.POLLIN | (select.POLLOUT if engine.unsent else 0))
    if all(engine.fileno() is not None for engine in engines):
        waiting.poll(1000 * _TICK)
    return [outcome for engine in engines for outcome in engine.receive()]


def end(*engines: Engine) -> None:
    """End them and wait until nothing of them is left."""
    for engine in engines:
        engine.kill()
    for engine in engines:
        while not engine.gone():
            time.sleep(_TICK)
