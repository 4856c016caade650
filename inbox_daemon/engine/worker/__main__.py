"""The worker process: frames in, vLLM, frames out. Started by `workers`, told by `replica` what to load.

Dies with the daemon and with its engine. What an engine that is dying says of its requests is never sent: the process
ends instead, and the daemon gives the requests to the next one.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from dataclasses import asdict
from typing import Any

import orjson

from inbox_daemon.engine import wire
from inbox_daemon.engine.worker import lifeline
from inbox_daemon.records import Outcome

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

    async def send_answers(self) -> None:
        """Send outcomes as they come, many to a frame."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(_FLUSH_AFTER)
            self._wake.clear()
            batch, self._pending = self._pending, []
            for frame in wire.outcomes(batch):
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
            asyncio.create_task(_take(connection, host)),
            asyncio.create_task(connection.send_answers()),
            asyncio.create_task(_report(connection, host)),
        }
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


async def _take(connection: Connection, host: Any) -> None:
    running: set[asyncio.Task[None]] = set()

    async def answer(request: Any) -> None:
        outcome = await host.answer(request)
        if outcome is None:
            print("inbox-daemon: the engine is dead; the worker ends with it", file=sys.stderr)
            end(EXIT_ENGINE_DEAD)
        connection.answer(outcome)

    while True:
        for kind, payload in await connection.receive():
            if kind is wire.Kind.REQUESTS:
                for number, request in enumerate(wire.read_requests(payload), 1):
                    task = asyncio.create_task(answer(request))
                    running.add(task)
                    task.add_done_callback(running.discard)
                    if number % _AT_A_TIME == 0:
                        await asyncio.sleep(0)  # they begin
                        await host.caught_up(_AT_A_TIME)


async def _report(connection: Connection, host: Any) -> None:
    while True:
        await asyncio.sleep(_STATS_EVERY)
        if host.dead:
            print("inbox-daemon: the engine is dead; the worker ends with it", file=sys.stderr)
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
        print(f"inbox-daemon: worker failed after {time.monotonic() - started:.0f} s: {error}", file=sys.stderr)
        end(1)


if __name__ == "__main__":
    main()
