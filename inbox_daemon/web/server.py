"""The web process itself: one event loop, what systemd is told, what is done each minute, and the end.

First the upkeep, which puts right what a crash has left; then `ready`, requests, a beat for the watchdog; the upkeep
anew each minute. At SIGTERM nobody new is let in, who waits for news is answered at once, and what is under way has
some seconds. Knows no route.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn

from inbox_daemon.errors import ConfigError, InboxDaemonError, told
from inbox_daemon.machine.notify import Notifier
from inbox_daemon.web import sockets
from inbox_daemon.web.guard import Guard, Rules, where
from inbox_daemon.web.protocol import Limited

if TYPE_CHECKING:
    from starlette.types import ASGIApp

log = logging.getLogger(__name__)

GRACE = 5  # seconds that requests under way get at a stop
_KEEP_ALIVE = 5  # seconds that a connection may be idle between two requests
_LOOK_EVERY = 1.0  # seconds: the watchdog's beat, and after so long a key that was revoked opens nothing
_UPKEEP_EVERY = 60.0  # seconds


class Server(uvicorn.Server):
    """uvicorn's server with our limits and chores.

    Args:
        app: the application, which the guard is put around.
        upkeep: what is due at the start and each minute, in a thread.
    """

    def __init__(self, app: ASGIApp, rules: Rules, notifier: Notifier, upkeep: Callable[[], None]) -> None:
        self._rules, self._notifier, self._upkeep = rules, notifier, upkeep
        self._stopping = asyncio.Event()
        self._chores: list[asyncio.Task[None]] = []
        settings = uvicorn.Config(
            Guard(app, rules, self._stopping),
            http=Limited,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=GRACE,
        )
        super().__init__(settings)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(_at_fault)
        await self._keep_up()
        await super().startup(sockets=sockets)
        self._chores = [asyncio.create_task(chore()) for chore in (self._look, self._each_minute)]
        self._notifier.ready()
        log.info("web: ready")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("web: stopping: %d requests under way get %d s", len(self.server_state.tasks), GRACE)
        self._notifier.stopping(2 * GRACE)
        self._stopping.set()
        for chore in self._chores:
            chore.cancel()
        await super().shutdown(sockets=sockets)

    async def _look(self) -> None:
        """Feed the watchdog, as long as this loop turns, and see whether the keys have changed."""
        while True:
            self._notifier.beat(time.monotonic())
            if self._rules.keys is not None:
                try:
                    if self._rules.keys.refresh():
                        log.info("web: %d keys, read anew", len(self._rules.keys))
                except ConfigError as error:
                    log.error("web: keys not read anew, the old ones stay: %s", error)
            await asyncio.sleep(_LOOK_EVERY)

    async def _each_minute(self) -> None:
        while True:
            await asyncio.sleep(_UPKEEP_EVERY)
            await self._keep_up()

    async def _keep_up(self) -> None:
        try:
            await asyncio.to_thread(self._upkeep)
        except Exception as error:  # a full disk, say: who wants to read answers is served
            why = told(error) if isinstance(error, InboxDaemonError | OSError) else where(error)
            log.error("web: upkeep failed; tried again within a minute: %s", why)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """End at SIGTERM and SIGINT with the exit status of this process: uvicorn would raise the signal again."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _at_fault(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Say of what failed outside any request what kind it is and where; asyncio would print its words as well."""
    error = context.get("exception")
    log.error("web: a fault outside of any request: %s, %s", context["message"], where(error) if error else "-")


def serve(
    app: ASGIApp, rules: Rules, listeners: Sequence[socket.socket], notifier: Notifier, upkeep: Callable[[], None]
) -> None:
    """Serve until SIGTERM or SIGINT. The listeners are closed then."""
    for talkative in ("uvicorn", "python_multipart"):  # they print paths, bytes, exceptions with all their words
        logging.getLogger(talkative).setLevel(logging.CRITICAL)
    who = "everybody who reaches it" if rules.keys is None else f"{len(rules.keys)} keys"
    for listener in listeners:
        log.info("web: listening on %s, for %s", sockets.place(listener), who)
    Server(app, rules, notifier, upkeep).run(sockets=list(listeners))
    log.info("web: stopped")
