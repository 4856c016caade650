#!/usr/bin/env python3
"""Measures the path around the engine: files of 10,000, 100,000 and 1,000,000 lines through `engine/null`.

Prints requests a second from claim to receipt and the daemon's peak memory, as a Markdown table. Everything is as
durable as in production; put --spool on the disk in question.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

LINE = (
    '{"custom_id":"request-%07d","method":"POST","url":"/v1/chat/completions","body":{"messages":'
    '[{"role":"user","content":"score candidate %d out of ten, please"}],"max_tokens":8}}\n'
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--spool", type=Path, help="a folder for the spools (default: temporary)")
    given = parser.parse_args()
    work = given.spool or Path(tempfile.mkdtemp(prefix="pipeline-"))
    print("| requests | claim to receipt (s) | requests/s | peak memory (MB) | CPU (s) |\n|---|---|---|---|---|")
    for size in given.sizes:
        print(row(size, work / f"spool-{size}"), flush=True)


def row(size: int, spool: Path) -> str:
    shutil.rmtree(spool, ignore_errors=True)
    (spool / "inbox").mkdir(parents=True)
    with (spool / "inbox" / "m.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(LINE % (i, i) for i in range(size))
    command = [sys.executable, "-m", "inbox_daemon", "run", "--spool", str(spool), "--drain"]
    environment = os.environ | {"INBOX_DAEMON_ENGINE__KIND": "null"}
    with (spool / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the daemon ended with {process.returncode}; see {spool / 'log'}")
    seconds = json.loads((spool / "outbox" / "m" / "receipt.json").read_text(encoding="utf-8"))["times"]["seconds"]
    shutil.rmtree(spool)
    cpu, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    return f"| {size:,} | {seconds:.1f} | {size / seconds:,.0f} | {memory:.0f} | {cpu:.1f} |"


if __name__ == "__main__":
    main()
