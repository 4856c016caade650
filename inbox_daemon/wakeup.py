"""What ends the loop's sleep: a signal, a hint from the inbox's watch, the engine's socket, or time.

Signal handlers and other threads only leave word here; everything happens in the loop (the self-pipe trick,
cr.yp.to/docs/selfpipe.html).
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal


class Wakeup:
    """Attributes: signals: the numbers that have arrived and are not obeyed yet, oldest first."""

    def __init__(self) -> None:
        self.signals: list[int] = []
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def catch(self, *numbers: signal.Signals) -> None:
        """Take note of these signals instead of dying of them."""
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, lambda number, frame: self.signals.append(number))

    def wake(self) -> None:
        """End the sleep; from any thread."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"\0")

    def sleep(self, seconds: float, engine: int | None) -> None:
        """Sleep for at most so long, or until there is word, or the engine's descriptor is readable."""
        waiting = select.poll()  # select(2) takes no descriptor above 1023, and hundreds of batches have more than that
        for descriptor in (self._read,) if engine is None else (self._read, engine):
            waiting.register(descriptor, select.POLLIN)
        waiting.poll(math.ceil(1000 * seconds))
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)
