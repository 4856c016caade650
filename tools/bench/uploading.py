#!/usr/bin/env python3
"""Measures what a large upload costs the web process: speed, memory, and how long others wait for an answer meanwhile.

In turns with a peer in the same run: FastAPI's own UploadFile, which writes a body to a temporary file and copies it
from there. Both hash the file. The client sends it chunked, without a length, as openai-node does; the other requests
are GET /v1/batches and GET /healthz, twenty a second. All are on this host, so the client's work is in the speed.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson
import psutil

ROOT = Path(__file__).resolve().parents[2]
BLOCK = 1 << 20
PEER = """
import hashlib, os, shutil, sys
import uvicorn
from fastapi import FastAPI, Form, UploadFile
app = FastAPI()
@app.post("/v1/files")
def upload(file: UploadFile, purpose: str = Form()):
    digest = hashlib.sha256()
    with open(sys.argv[2], "wb") as target:
        while block := file.file.read(1 << 20):
            digest.update(block)
            target.write(block)
        target.flush()
        os.fsync(target.fileno())
    return {"bytes": target.name and os.path.getsize(target.name), "sha256": digest.hexdigest()}
@app.get("/v1/batches")
@app.get("/healthz")
def others():
    return {}
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", http="httptools")
"""


@dataclass(slots=True)
class Seen:
    """One upload. Seconds, bytes."""

    seconds: float
    peak: int
    waits: list[float]
    written: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--spool", type=Path, help="a folder for spools that come and go (default: TMPDIR)")
    parser.add_argument("--alone", action="store_true", help="without the peer, which writes twice as much")
    given = parser.parse_args()
    size = int(given.gigabytes * 1e9)
    seen: dict[str, list[Seen]] = {"inbox-daemon web": []} | ({} if given.alone else {"UploadFile": []})
    for _ in range(given.turns):
        for name, found in seen.items():
            with tempfile.TemporaryDirectory(prefix="uploading-", dir=given.spool) as folder:
                found.append(one(name, Path(folder), size))
    print(f"{size / 1e9:g} GB, {given.turns} turns\n")
    heads = ("", "MB/s (best)", "peak memory, MB", "written, GB", "longest wait of others, ms", "median")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, found in seen.items():
        waits = [wait for turn in found for wait in turn.waits]
        rate = size / 1e6 / min(turn.seconds for turn in found)
        peak, written = max(turn.peak for turn in found) / 1e6, max(turn.written for turn in found) / 1e9
        longest, middle = max(waits) * 1000, statistics.median(waits) * 1000
        print(f"| {name} | {rate:.0f} | {peak:.0f} | {written:.1f} | {longest:.0f} | {middle:.1f} |")


def one(name: str, folder: Path, size: int) -> Seen:
    """Start a server, send it one file, and end it."""
    port = free_port()
    spool = folder / "spool"
    for part in ("inbox", "outbox", "daemons", "work"):
        (spool / part).mkdir(parents=True)
    if name == "UploadFile":
        command = [sys.executable, "-c", PEER, str(port), str(folder / "kept")]
    else:
        config = folder / "config.toml"
        config.write_text("")
        command = [sys.executable, "-m", "inbox_daemon", "web", "--spool", str(spool), "--config", str(config)]
        command += ["--listen", f"127.0.0.1:{port}"]
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder)}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not answers(port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} does not answer")
            time.sleep(0.05)
        return sent(psutil.Process(server.pid), port, size)
    finally:
        server.kill()
        server.wait()


def sent(server: psutil.Process, port: int, size: int) -> Seen:
    over = threading.Event()
    waits: list[float] = []
    peak = [0]

    def watch() -> None:
        while not over.wait(0.05):
            for path in ("/v1/batches", "/healthz"):
                began = time.monotonic()
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
                    answer.read()
                waits.append(time.monotonic() - began)
            peak[0] = max(peak[0], server.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    before = server.io_counters().write_chars
    began = time.monotonic()
    digest = hashlib.sha256()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    head = {"content-type": "multipart/form-data; boundary=b", "transfer-encoding": "chunked"}
    connection.request("POST", "/v1/files", body(size, digest), head, encode_chunked=True)
    answer = connection.getresponse()
    said = orjson.loads(answer.read())
    took = time.monotonic() - began
    connection.close()
    over.set()
    watching.join()
    if answer.status != 200 or said["bytes"] != size or said.get("sha256", digest.hexdigest()) != digest.hexdigest():
        raise SystemExit(f"not taken as it was sent: {answer.status} {said}")
    return Seen(took, peak[0], waits, server.io_counters().write_chars - before)


def body(size: int, digest: hashlib._Hash) -> Iterator[bytes]:
    """Yield a form with a file of so many bytes, lines of random letters."""
    yield b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="large.jsonl"\r\n\r\n'
    line = os.urandom(500).hex().encode() + b"\n"
    block = (line * (BLOCK // len(line) + 1))[:BLOCK]
    while size:
        piece = block[:size]
        digest.update(piece)
        size -= len(piece)
        yield piece
    yield b"\r\n--b--\r\n"


def answers(port: int) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5):
        return True
    return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
