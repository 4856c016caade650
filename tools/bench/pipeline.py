#!/usr/bin/env python3
"""Measures the path around the engine: files of 10,000, 100,000 and 1,000,000 lines through `engine/null`.

Prints a Markdown table: requests a second from claim to receipt, everything as durable as in production; how that
compares with a plain loop that reads the same file, parses each line with orjson and writes an answer for it, once,
with no thought of a crash; the daemon's peak memory, and what a request adds to that of a batch of one. Put --spool on
the disk in question.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import orjson

ROOT = Path(__file__).resolve().parent.parent.parent
LINE = (
    '{"custom_id":"request-%07d","method":"POST","url":"/v1/chat/completions","body":{"messages":'
    '[{"role":"user","content":"score candidate %d out of ten, please"}],"max_tokens":8}}\n'
)
HEADING = (
    "| requests | claim to receipt (s) | requests/s | plain loop, requests/s | share of it | CPU (s) | peak (MB) "
    "| bytes a request |\n|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument(
        "--spool", type=Path, help="a folder, on the disk in question, for spools that come and go (default: TMPDIR)"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pipeline-", dir=given.spool) as temporary:
        work = Path(temporary)
        _, least = through_daemon(written(work, 1), work / "spool")
        print(HEADING)
        for size in given.sizes:
            print(row(written(work, size), size, work, least.ru_maxrss), flush=True)


def row(file: Path, size: int, work: Path, least: int) -> str:
    seconds, usage = through_daemon(file, work / "spool")
    plain = through_loop(file, work / "plain.jsonl")
    file.unlink()
    cells = [
        f"{size:,}",
        f"{seconds:.1f}",
        f"{size / seconds:,.0f}",
        f"{size / plain:,.0f}",
        f"{100 * plain / seconds:.0f} %",
    ]
    cells += [f"{usage.ru_utime + usage.ru_stime:.1f}", f"{usage.ru_maxrss / 1024:.0f}"]
    return f"| {' | '.join(cells)} | {(usage.ru_maxrss - least) * 1024 / size:.0f} |"


def written(work: Path, size: int) -> Path:
    file = work / f"m{size}.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(LINE % (i, i) for i in range(size))
    return file


def through_daemon(file: Path, spool: Path) -> tuple[float, resource.struct_rusage]:
    """Return the seconds from claim to receipt, and what the daemon used."""
    shutil.rmtree(spool, ignore_errors=True)
    (spool / "inbox").mkdir(parents=True)
    shutil.copyfile(file, spool / "inbox" / file.name)
    command = [sys.executable, "-m", "inbox_daemon", "run", "--spool", str(spool.absolute()), "--drain"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"INBOX_DAEMON_ENGINE__KIND": "null", "PYTHONPATH": path}
    with (spool / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the daemon ended with {process.returncode}; see {spool / 'log'}")
    claimed, completed = (_stamp(spool / "log", f"{file.stem}: {what}") for what in ("claimed", "completed: "))
    shutil.rmtree(spool)
    return (completed - claimed).total_seconds(), usage


def _stamp(log: Path, what: str) -> datetime:
    line = next(line for line in log.read_text(encoding="utf-8").splitlines() if what in line)
    return datetime.fromisoformat(line[:23].replace(",", "."))


def through_loop(file: Path, out: Path) -> float:
    """Return the seconds that a loop takes which loses everything when it is killed."""
    began = time.monotonic()
    with file.open("rb") as lines, out.open("wb") as answers:
        for line in lines:
            request = orjson.loads(line)
            message = {"role": "assistant", "content": "null"}
            body = {"object": "chat.completion", "choices": [{"index": 0, "message": message}]}
            answer = {"custom_id": request["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}
            answers.write(orjson.dumps(answer) + b"\n")
    seconds = time.monotonic() - began
    out.unlink()
    return seconds


if __name__ == "__main__":
    main()
