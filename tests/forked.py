"""A child that is told what to do, one order after another, and says when each is done. No test lives here."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import orjson


class Forked:
    """A forked child; to be started where no thread runs.

    Args:
        live: what the child does, with the descriptors of its orders, a JSON list on each line, and of its replies, a
            byte for each order that is done and one for the start.

    Attributes:
        status: how it ended, None while it is there.
    """

    def __init__(self, live: Callable[[int, int], NoReturn]) -> None:
        theirs, self._orders = os.pipe()
        self._replies, answers = os.pipe()
        sys.stdout.flush()
        gc.freeze()  # or collecting in the child copies every page it looks at
        self.pid = os.fork()
        if not self.pid:
            os.close(self._orders)
            os.close(self._replies)
            live(theirs, answers)
        os.close(theirs)
        os.close(answers)
        self.status: int | None = None
        self._reply()

    def order(self, *words: object) -> bool:
        """Have something done and wait until it is; say whether the child is still there."""
        if self.status is None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._orders, orjson.dumps(words) + b"\n")
            self._reply()
        return self.status is None

    def kill(self) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self._reply()

    def _reply(self) -> None:
        if not os.read(self._replies, 1):
            os.close(self._orders)
            os.close(self._replies)
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
