"""One engine outside the daemon's loop, for a verb that has one of its own: waiting for it, and ending it."""

from __future__ import annotations

import select
import time

from inbox_daemon.engine import Engine
from inbox_daemon.records import Outcome

_TICK = 0.05  # seconds


def receive(engine: Engine) -> list[Outcome]:
    """Return what it has answered, after a moment's waiting where that is nothing.

    Raises:
        EngineDied, ConfigError: as `Engine.receive`.
    """
    if (fd := engine.fileno()) is not None:
        waiting = select.poll()
        waiting.register(fd, select.POLLIN | (select.POLLOUT if engine.unsent else 0))
        waiting.poll(1000 * _TICK)
    return engine.receive()


def end(engine: Engine) -> None:
    """End it and wait until nothing of it is left."""
    engine.kill()
    while not engine.gone():
        time.sleep(_TICK)
