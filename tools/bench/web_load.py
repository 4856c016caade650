#!/usr/bin/env python3
"""Measures the web process under clients that poll: 50 with ETag each second, 64 that wait, beside a daemon at work.

A daemon with `engine/null` answers a file at a fixed rate; the same seconds are measured without clients and with them.
Prints a Markdown table: how long GET /v1/batches/ID took for who polls (the answer as the client has it), how many were
304, how many of those who wait heard of a change, processor time of web and daemon as a share of one core, and the
daemon's requests a second. Clients run in this process, on the same cores: times are upper bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import orjson
import psutil

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from inbox_daemon.web import keys  # noqa: E402

LINE = (
    '{"custom_id":"r%d","method":"POST","url":"/v1/chat/completions","body":'
    '{"messages":[{"role":"user","content":"score candidate %d"}]}}\n'
)
PORT = 18901
KEYS = 8  # of clients: each key has eight places to wait
URL = f"http://127.0.0.1:{PORT}"


@dataclass
class Seen:
    """What clients saw of GET /v1/batches/ID."""

    took: list[float] = field(default_factory=list)  # seconds, of those that poll
    statuses: Counter[int] = field(default_factory=Counter)
    changes: int = 0  # that those who wait have heard of
    at_once: int = 0  # answers that came without waiting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50, help="that poll each second")
    parser.add_argument("--waiting", type=int, default=64, help="that wait for a change, 30 s each time")
    parser.add_argument("--folders", type=int, default=0, help="of batches that have ended, in the outbox")
    parser.add_argument("--rate", type=int, default=500, help="requests a second of the daemon")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--spool", type=Path, help="a folder for the spool (default: TMPDIR)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="web-load-", dir=given.spool) as temporary:
        spool = Path(temporary) / "spool"
        for folder in ("inbox", "outbox", "work", "daemons"):
            (spool / folder).mkdir(parents=True)
        crowd(spool / "outbox", given.folders)
        path = Path(temporary) / "keys"
        who = [keys.add(path, f"client-{number}", every=True) for number in range(KEYS)]
        rate = {"INBOX_DAEMON_ENGINE__KIND": "null", "INBOX_DAEMON_ENGINE__NULL__RATE": str(given.rate)}
        with process(spool, "run", rate) as daemon, process(spool, "web", {"INBOX_DAEMON_WEB__KEYS": str(path)}) as web:
            wait_for_web()
            client = httpx.Client(base_url=URL, timeout=60, headers={"Authorization": f"Bearer {who[0]}"})
            ids = submitted(client, Path(temporary), given.rate * int(given.seconds * 3 + 30))
            measured(given, Load(client, ids, who), daemon, web)


@dataclass
class Load:
    """Whom clients are, and what they ask for."""

    client: httpx.Client
    ids: Sequence[str]
    keys: Sequence[str]

    def done(self) -> int:
        return sum(self.client.get(f"/v1/batches/{id}").json()["request_counts"]["completed"] for id in self.ids)


def measured(given: argparse.Namespace, load: Load, daemon: psutil.Process, web: psutil.Process) -> None:
    alone, seen = Seen(), Seen()
    asyncio.run(asked(given.seconds / 3, load, 0, 0, alone))  # caches, and what both do at their start
    print("| clients | p50, ms | p99, ms | longest, ms | 304 | changes heard | web CPU | daemon CPU | requests/s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for clients, waiting, told in ((0, 0, alone), (given.clients, given.waiting, seen)):
        before, began = [load.done(), cpu(daemon), cpu(web)], time.monotonic()
        asyncio.run(asked(given.seconds, load, clients, waiting, told))
        took = time.monotonic() - began
        answered, daemons, webs = (
            now - then for now, then in zip((load.done(), cpu(daemon), cpu(web)), before, strict=True)
        )
        times = sorted(1000 * each for each in told.took) or [0.0]
        p99 = times[int(len(times) * 0.99)]
        same = told.statuses[304] / max(1, told.statuses.total())
        print(
            f"| {clients} poll, {waiting} wait | {statistics.median(times):.1f} | {p99:.1f} | {times[-1]:.1f} "
            f"| {same:.0%} | {told.changes} | {webs / took:.1%} | {daemons / took:.1%} | {answered / took:.0f} |"
        )
        wrong = {status: count for status, count in told.statuses.items() if status not in (200, 304)}
        if told.at_once > waiting:  # the first of each has no tag, and waits for nothing
            print(f"\n{told.at_once} of those who wait were answered at once\n")
        if wrong:
            raise SystemExit(f"what was measured is not what it says: {wrong}")


@contextmanager
def process(spool: Path, verb: str, environment: dict[str, str]) -> Iterator[psutil.Process]:
    command = [sys.executable, "-m", "inbox_daemon", verb, "--spool", str(spool)]
    command += ["--listen", f"127.0.0.1:{PORT}"] if verb == "web" else []
    log = (spool.parent / f"{verb}.log").open("wb")
    started = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stderr=log, stdout=log)
    try:
        yield psutil.Process(started.pid)
    finally:
        started.terminate()
        started.wait(60)
        log.close()


def crowd(outbox: Path, folders: int) -> None:
    """Batches that have ended, as the daemon leaves them."""
    now = int(time.time())
    for number in range(folders):
        folder = outbox / f"old-{number:05d}"
        folder.mkdir()
        status = {
            "id": f"batch_{number:022x}",
            "object": "batch",
            "name": folder.name,
            "status": "completed",
            "endpoint": "/v1/chat/completions",
            "created_at": now - 10_000,
            "completed_at": now - 5_000,
            "request_counts": {"total": 1, "completed": 1, "failed": 0},
        }
        (folder / "status.json").write_bytes(orjson.dumps(status))
        (folder / "results.jsonl").write_bytes(b"{}\n")
        (folder / "receipt.json").write_bytes(b"{}")


def wait_for_web() -> None:
    until = time.monotonic() + 60
    while True:
        with suppress(OSError), urllib.request.urlopen(f"{URL}/healthz", timeout=5) as answer:
            if orjson.loads(answer.read())["daemon"]:
                return
        if time.monotonic() > until:
            raise SystemExit("the web process and a daemon are not there within 60 s")
        time.sleep(0.1)


def submitted(client: httpx.Client, folder: Path, requests: int) -> list[str]:
    """Upload a file, make four batches of it, and wait until they run."""
    file = folder / "requests.jsonl"
    file.write_text("".join(LINE % (number, number) for number in range(requests // 4)))
    with file.open("rb") as content:
        told = client.post("/v1/files", files={"file": (file.name, content)}, data={"purpose": "batch"})
        if told.status_code != 200:
            raise SystemExit(f"the upload was answered with {told.status_code}: {told.text}")
        asked = {"input_file_id": told.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        ids = [client.post("/v1/batches", json=asked).json()["id"] for _ in range(4)]
        while not all(client.get(f"/v1/batches/{id}").json()["request_counts"]["completed"] for id in ids):
            time.sleep(0.2)
    return ids


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def asked(seconds: float, load: Load, clients: int, waiting: int, seen: Seen) -> None:
    until = time.monotonic() + seconds
    ids, who = load.ids, load.keys
    polling = [
        polls(await Connection.opened(who[n % KEYS]), ids[n % len(ids)], n / clients, until, seen)
        for n in range(clients)
    ]
    waits = [waits_for(await Connection.opened(who[n % KEYS]), ids[n % len(ids)], until, seen) for n in range(waiting)]
    await asyncio.gather(asyncio.sleep(seconds), *polling, *waits)


async def polls(connection: Connection, id: str, after: float, until: float, seen: Seen) -> None:
    """One client: the same connection, each second once, with the tag of the last answer."""
    await asyncio.sleep(after)
    tag = ""
    while time.monotonic() < until:
        began = time.monotonic()
        status, tag = await connection.get(f"/v1/batches/{id}", tag)
        seen.took.append(time.monotonic() - began)
        seen.statuses[status] += 1
        await asyncio.sleep(max(0.0, began + 1 - time.monotonic()))
    connection.close()


async def waits_for(connection: Connection, id: str, until: float, seen: Seen) -> None:
    tag = ""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, until - time.monotonic())):
            while True:
                status, tag = await connection.get(f"/v1/batches/{id}", tag, "Prefer: wait=30\r\n")
                seen.changes += status == 200
                if not connection.has_waited:
                    seen.at_once += 1
                    await asyncio.sleep(1)
                if status not in (200, 304):
                    seen.statuses[status] += 1
    connection.close()


class Connection:
    """One kept-alive connection, with as few cycles of ours as will do: they are the web process's cores, too."""

    has_waited = False

    def __init__(self, key: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._who = f"Host: 127.0.0.1:{PORT}\r\nAuthorization: Bearer {key}\r\n"

    @classmethod
    async def opened(cls, key: str) -> Connection:
        return cls(key, *await asyncio.open_connection("127.0.0.1", PORT))

    async def get(self, path: str, tag: str, more: str = "") -> tuple[int, str]:
        """Return the status, and the tag to ask with the next time."""
        known = f"If-None-Match: {tag}\r\n" if tag else ""
        self._writer.write(f"GET {path} HTTP/1.1\r\n{self._who}{known}{more}\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status = int(head.split(" ", 2)[1])
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        self.has_waited = "preference-applied" in headers
        if status != 304:
            await self._reader.readexactly(int(headers.get("content-length", 0)))
        return status, headers.get("etag", tag).replace('w/"', 'W/"')

    def close(self) -> None:
        self._writer.close()


if __name__ == "__main__":
    main()
