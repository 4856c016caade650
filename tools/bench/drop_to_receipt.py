#!/usr/bin/env python3
"""Times one batch from drop to receipt, and vLLM's own `run-batch` on the same file and GPU, one after the other.

Prints a table (Markdown) and writes the numbers as JSON. Two clocks: the whole wall time with the engine's start, and
the time in which requests were computed.

    tools/bench/make_model_shape.py /tmp/shape
    tools/bench/drop_to_receipt.py --model /tmp/shape --requests 500 --arg load_format=dummy --arg max_model_len=8192
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOOLS = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--max-tokens", type=int, default=152)
    parser.add_argument("--arg", action="append", default=[], metavar="KEY=VALUE", help="an engine argument, for both")
    parser.add_argument("--out", type=Path, default=Path("drop_to_receipt.json"))
    parser.add_argument("--keep", type=Path, help="a folder for spool and logs (default: temporary)")
    given = parser.parse_args()
    work = given.keep or Path(tempfile.mkdtemp(prefix="drop-to-receipt-"))
    work.mkdir(parents=True, exist_ok=True)
    batch = work / "candidates.jsonl"
    sample = [sys.executable, TOOLS / "make_sample_batch.py", str(given.requests), "--model", given.model]
    with batch.open("wb") as file:
        subprocess.run([*sample, "--max-tokens", str(given.max_tokens)], check=True, stdout=file)
    arguments = dict(pair.split("=", 1) for pair in given.arg)
    rows = [ours(given.model, batch, arguments, work), run_batch(given.model, batch, arguments, work)]
    print("\n| | requests | engine start (s) | computing (s) | requests/s | whole wall (s) |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['name']} | {row['requests']} | {row['start']:.1f} | {row['computing']:.1f} "
            f"| {row['requests'] / row['computing']:.1f} | {row['wall']:.1f} |"
        )
    given.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def ours(model: str, batch: Path, arguments: dict[str, str], work: Path) -> dict[str, object]:
    """Run the daemon until the batch has its receipt."""
    spool = work / "spool"
    shutil.rmtree(spool, ignore_errors=True)
    (spool / "inbox").mkdir(parents=True)
    config = work / "config.toml"
    settings = "".join(f"{key} = {json.dumps(_typed(value))}\n" for key, value in arguments.items())
    config.write_text(f"[engine.args]\n{settings}", encoding="utf-8")
    command = [sys.executable, "-m", "inbox_daemon", "run", "--spool", spool, "--config", config, "--model", model]
    shutil.copy(batch, spool / "inbox" / batch.name)
    started = time.monotonic()
    with (work / "daemon.log").open("wb") as log:
        status = subprocess.run([*map(str, command), "--drain"], stdout=log, stderr=log, check=False).returncode
    wall = time.monotonic() - started
    outbox = spool / "outbox" / batch.stem
    receipt = json.loads((outbox / "receipt.json").read_text(encoding="utf-8"))
    verify = [sys.executable, "-m", "inbox_daemon", "verify", str(outbox), "--input", str(batch)]
    subprocess.run(verify, check=True)
    load = receipt["engines"][0]["load_seconds"]
    first = next(e for e in (work / "daemon.log").read_text().splitlines() if " claimed" in e)
    print(f"daemon: exit {status}; {first}")
    return {
        "name": "inbox-daemon, drop to receipt",
        "requests": receipt["answers"],
        "start": load,
        "computing": receipt["times"]["seconds"] - load,
        "wall": wall,
        "receipt": receipt,
    }


def run_batch(model: str, batch: Path, arguments: dict[str, str], work: Path) -> dict[str, object]:
    """Run vLLM's own runner; its computing time is what its last progress bar says."""
    out = work / "run_batch.jsonl"
    flags = [word for key, value in arguments.items() for word in (f"--{key.replace('_', '-')}", value)]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.run_batch", "-i", batch, "-o", out, "--model", model]
    started = time.monotonic()
    with (work / "run_batch.log").open("wb") as log:
        subprocess.run([*map(str, command), *flags], stdout=log, stderr=log, check=True, env=os.environ)
    wall = time.monotonic() - started
    bars = re.findall(r"100% Completed \| \d+/\d+ \[([\d:]+)<", (work / "run_batch.log").read_text(errors="replace"))
    rates = re.findall(r"100% Completed .*?([\d.]+)req/s", (work / "run_batch.log").read_text(errors="replace"))
    answers = sum(json.loads(line)["error"] is None for line in out.open(encoding="utf-8"))
    computing = (
        answers / float(rates[-1]) if rates else sum(int(p) * 60**i for i, p in enumerate(bars[-1].split(":")[::-1]))
    )
    return {
        "name": "vllm run-batch",
        "requests": answers,
        "start": wall - computing,
        "computing": computing,
        "wall": wall,
    }


def _typed(value: str) -> object:
    try:
        return json.loads(value)
    except ValueError:
        return value


if __name__ == "__main__":
    main()
