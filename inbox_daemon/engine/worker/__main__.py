"""The worker process: frames in, vLLM, frames out. Started by `workers`, told by `local` what to load.

Dies with the daemon and with its engine. What an engine that is dying says of its requests is never sent: the process
ends instead, and the daemon gives the requests to the next one.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from typing import Any

import orjson

from inbox_daemon.engine import wire
from inbox_daemon.engine.worker import lifeline, words
from inbox_daemon.errors import ConfigError
from inbox_daemon.records import Outcome, Request

_FLUSH_AFTER = 0.02  # seconds an outcome may wait for company in its frame
_STATS_EVERY = 1.0
_READ = 1 << 20
_AT_A_TIME = 16  # requests begun before the engine has those before them; a frame may hold thousands
EXIT_ENGINE_DEAD = 3


class Connection:
    """The worker's end of the socket pair. Closing of the other end ends the process."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.setblocking(False)
        self._inbound = wire.Inbound()
        self._lock = asyncio.Lock()
        self._pending: list[Outcome] = []
        self._unanswered: list[int] = []
        self._wake = asyncio.Event()

    async def receive(self) -> list[tuple[wire.Kind, bytes]]:
        data = await asyncio.get_running_loop().sock_recv(self._sock, _READ)
        if not data:
            end(0)
        return list(self._inbound.feed(data))

    async def told(self) -> Any:
        """Wait for the first frame, which says what to load and comes alone."""
        while not (frames := await self.receive()):
            pass
        return orjson.loads(frames[0][1])

    async def send(self, frame: bytes) -> None:
        async with self._lock:
            await asyncio.get_running_loop().sock_sendall(self._sock, frame)

    def answer(self, outcome: Outcome) -> None:
        self._pending.append(outcome)
        self._wake.set()

    def give_back(self, ticket: int) -> None:
        self._unanswered.append(ticket)
        self._wake.set()

    async def send_answers(self) -> None:
        """Send outcomes as they come, many to a frame, and what comes back unanswered."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(_FLUSH_AFTER)
            self._wake.clear()
            batch, self._pending = self._pending, []
            unanswered, self._unanswered = self._unanswered, []
            for frame in (*wire.outcomes(batch), *wire.tickets(wire.Kind.RECALLED, unanswered)):
                await self.send(frame)


def end(status: int) -> None:
    """Leave at once and take every process of the engine along: nothing here is worth an orderly exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


async def serve(sock: socket.socket) -> None:
    connection = Connection(sock)
    await connection.send(wire.message(wire.Kind.PHASE, {"phase": "importing vLLM"}))
    from inbox_daemon.engine.worker.vllm_host import VllmHost

    options = await connection.told()
    os.environ.update(options["environment"])
    if options["first"]:
        await connection.send(wire.message(wire.Kind.PLACES, {"places": VllmHost.places(options)}))
    await connection.send(wire.message(wire.Kind.PHASE, {"phase": "loading the model"}))
    async with VllmHost.load(options) as host:
        await connection.send(wire.message(wire.Kind.READY, host.describe()))
        tasks = {
            asyncio.create_task(Work(connection, host).take()),
            asyncio.create_task(connection.send_answers()),
            asyncio.create_task(_report(connection, host)),
        }
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


class Work:
    """The requests that are being computed, each a task that ends in an answer or comes back unanswered."""

    def __init__(self, connection: Connection, host: Any) -> None:
        self._connection, self._host = connection, host
        self._running: dict[int, asyncio.Task[None]] = {}
        self._recalled: set[int] = set()

    async def take(self) -> None:
        """Begin what is handed over and let go of what is recalled, for as long as the connection lives."""
        while True:
            for kind, payload in await self._connection.receive():
                if kind is wire.Kind.REQUESTS:
                    await self._begin(wire.read_requests(payload))
                elif kind is wire.Kind.RECALL:
                    self._recall(wire.read_tickets(payload))
                elif kind is wire.Kind.SLEEP:
                    await self._host.sleep()
                    await self._connection.send(wire.message(wire.Kind.ASLEEP, {}))
                elif kind is wire.Kind.WAKE:
                    await self._host.wake()
                    await self._connection.send(wire.message(wire.Kind.AWAKE, {}))

    async def _begin(self, requests: Iterable[Request]) -> None:
        for number, request in enumerate(requests, 1):
            task = asyncio.create_task(self._answer(request))
            self._running[request.ticket] = task
            task.add_done_callback(partial(self._ended, request.ticket))
            if number % _AT_A_TIME == 0:
                await asyncio.sleep(0)  # they begin
                await self._host.caught_up(_AT_A_TIME)

    async def _answer(self, request: Request) -> None:
        outcome = await self._host.answer(request)
        if request.ticket in self._recalled and (outcome is None or outcome.is_error):
            raise asyncio.CancelledError  # vLLM calls it an error of the request that its client has gone
        if outcome is None:
            words.say("the engine is dead; the worker ends with it")
            end(EXIT_ENGINE_DEAD)
        self._connection.answer(outcome)

    def _recall(self, tickets: Iterable[int]) -> None:
        """Have vLLM abort these: it does where the task that waits for an answer is cancelled."""
        for ticket in tickets:
            if task := self._running.get(ticket):
                self._recalled.add(ticket)
                task.cancel()

    def _ended(self, ticket: int, task: asyncio.Task[None]) -> None:
        del self._running[ticket]
        self._recalled.discard(ticket)
        if task.cancelled():
            self._connection.give_back(ticket)


async def _report(connection: Connection, host: Any) -> None:
    while True:
        await asyncio.sleep(_STATS_EVERY)
        if host.dead:
            words.say("the engine is dead; the worker ends with it")
            end(EXIT_ENGINE_DEAD)
        await connection.send(wire.message(wire.Kind.STATS, asdict(host.stats())))


def main() -> None:
    lifeline.begin()
    sock = socket.socket(fileno=int(sys.argv[1]))
    started = time.monotonic()
    try:
        import uvloop

        uvloop.run(serve(sock))
    except SystemExit as leaving:
        end(leaving.code if isinstance(leaving.code, int) else 1)
    except BaseException as error:
        import traceback

        traceback.print_exc()
        if isinstance(error, ConfigError):
            print(error, file=sys.stderr)  # its last line is what the daemon ends with
            end(ConfigError.STATUS)
        print(f"inbox-daemon: worker failed after {time.monotonic() - started:.0f} s: {error}", file=sys.stderr)
        end(1)


if __name__ == "__main__":
    main()
