#!/usr/bin/env python3
"""Times what it costs to go from one model to the next on one set of GPUs, and what three models cost in one daemon.

    tools/bench/swapping.py                                  all five parts
    tools/bench/swapping.py --parts alternate --setting 'sleep = false'

`alternate`: ten short requests for each model in turn, each file dropped when the one before it is done; how long from
the drop to the first answer. `three`: one `submit` of the same requests for every model; the whole, and the seconds
between the last answer of one model and the first of the next. `small`: ten requests for one model while another one
has thousands. `end-and-start`: what `alternate` has, by one `vllm serve` that is ended, and the next one started, as
llama-swap does it. `run-batch`: what `three` has, by `vllm run-batch` for one model after the other.

Without --models it makes three architectures with random weights, which answer nonsense at the real speed; without a
GPU three tiny models. An answer has come when the daemon's log counts it, which is when it is on the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import peers
import report
import workloads
from make_model_shape import SHAPES
from talking import ROOT, Failed, Talking, environment

WITH_DAEMON = ("alternate", "three", "small")
PARTS = (*WITH_DAEMON, "end-and-start", "run-batch")
TEN = 10
WITHIN = 900.0  # seconds for anything that starts an engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="which of them (default: all)")
    parser.add_argument("--models", default="", help="folders or names, with commas between them")
    parser.add_argument("--requests", type=int, default=0, help="of each model in `three` (default: 1500; tiny: 60)")
    parser.add_argument(
        "--thousands", type=int, default=0, help="of the big file in `small` (default: 20000; tiny: 3000)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of each model in `alternate` and `end-and-start`")
    parser.add_argument("--setting", action="append", default=[], metavar="TOML", help="a line of [models]")
    parser.add_argument("--deadline", type=float, default=float("inf"), help="begin no part after so many seconds")
    parser.add_argument("--out", type=Path, default=Path("swapping"), help="OUT.json (default: swapping)")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and end the daemon, which else would keep the GPU
    with tempfile.TemporaryDirectory(prefix="swapping-") as folder:
        Swapping(given, Path(folder)).run()


class Swapping:
    """All parts of one call; those that need the daemon have one."""

    def __init__(self, given: argparse.Namespace, work: Path) -> None:
        self._given, self._work, self._began = given, work, time.monotonic()
        self._tiny = not report.gpus()
        if self._tiny:  # vLLM's own rule wants nearly all of the host's memory for what the daemon has no part in
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        self._args: dict[str, Any] = {"max_model_len": 2048 if self._tiny else 8192}
        self._args |= {"enforce_eager": True} if self._tiny else {} if given.models else {"load_format": "dummy"}
        self._models = [Path(model) for model in given.models.split(",")] if given.models else self._made()
        self._writer = workloads.Writer(str(self._models[0]))
        self._three = self._file("three", workloads.candidates, given.requests or (60 if self._tiny else 1500))
        self._told: dict[str, Any] = report.circumstances()
        self._told |= {"models": list(map(str, self._models)), "args": self._args, "settings": given.setting}

    def run(self) -> None:
        wanted = self._given.parts.split(",")
        if with_daemon := [part for part in wanted if part in WITH_DAEMON]:
            self._start()
            try:
                for part in with_daemon:
                    self._part(part, {"alternate": self._alternate, "three": self._at_once, "small": self._small}[part])
            finally:
                self._daemon.end(grace=30)
        if "end-and-start" in wanted:
            self._part("end-and-start", self._end_and_start)
        if "run-batch" in wanted:
            self._part("run-batch", self._run_batch)

    def _part(self, name: str, part: Callable[[], Any]) -> None:
        if time.monotonic() - self._began > self._given.deadline:
            self._told[name] = "left out: the deadline"
        else:
            try:
                self._told[name] = part()
            except Failed as failed:
                self._told[name] = {"failed": str(failed)}
        print(f"{name}: {json.dumps(self._told[name])}", flush=True)
        self._given.out.with_suffix(".json").write_text(json.dumps(self._told, indent=2) + "\n", encoding="utf-8")

    # -- what runs

    def _made(self) -> list[Path]:
        folders = [self._work / like for like in SHAPES]
        if self._tiny:
            subprocess.run([sys.executable, ROOT / "tools" / "make_tiny_model.py", folders[0]], check=True)
            for folder in folders[1:]:
                shutil.copytree(folders[0], folder)
        for folder in folders if not self._tiny else ():
            maker = ROOT / "tools" / "bench" / "make_model_shape.py"
            subprocess.run([sys.executable, maker, folder, "--like", folder.name], check=True)
        return folders

    def _file(self, name: str, generator: Callable[..., Any], count: int) -> Path:
        path = self._work / f"{name}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(one) + "\n" for one in generator(self._writer, count, name))
        return path

    def _start(self) -> None:
        self._spool, config = self._work / "spool", self._work / "config.toml"
        tables = "".join(
            f"[model.{json.dumps(model.name)}]\npath = {json.dumps(str(model))}\n" for model in self._models
        )
        args = "".join(f"{key} = {json.dumps(value)}\n" for key, value in self._args.items())
        models = "\n".join(["[models]", *self._given.setting])
        # A line of progress for each sync, and a sync for every few answers: those lines are the clock.
        every = "[daemon]\nlog_every = 1\n[results]\nsync_every = 8\n[inbox]\nsettle = 0.2\n"
        config.write_text(f"{models}\n{every}[engine.args]\n{args}{tables}", encoding="utf-8")
        self._verb = [sys.executable, "-m", "inbox_daemon"]
        self._where = ["--spool", str(self._spool), "--config", str(config)]
        self._daemon = Talking([*self._verb, "run", *self._where], self._work / "log")
        self._daemon.wait("ready: drop", 60)

    def _submit(self, file: Path, *models: Path) -> float:
        """Submit a file for each of these models; return the stamp before the first drop."""
        shutil.copyfile(file, again := self._work / f"{file.stem}-{time.monotonic_ns()}.jsonl")
        began, words = time.monotonic(), [word for model in models for word in ("--model", model.name)]
        done = subprocess.run(
            [*self._verb, "submit", again, *words, "--again", *self._where],
            env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise Failed(f"submit: {done.stdout}{done.stderr}")
        self._names = done.stdout.split()
        return began

    def _answered(self, name: str) -> tuple[float, float]:
        """Wait for a batch's receipt; return the stamps of its first counted answer and of its last."""
        self._daemon.wait(rf" {re.escape(name)}: completed: ", WITHIN)
        counted = [
            stamp for stamp, line in self._daemon.lines if re.search(rf" {re.escape(name)}: \d+ of \d+ done", line)
        ]
        if not counted:
            raise Failed(f"nothing was counted of {name}; {self._daemon.tail()}")
        return counted[0], counted[-1]

    # -- the parts

    def _alternate(self) -> list[dict[str, Any]]:
        ten, turns = self._file("ten", workloads.short, TEN), []
        for number in range(self._given.rounds * len(self._models)):
            model = self._models[number % len(self._models)]
            dropped = self._submit(ten, model)
            first, last = self._answered(self._names[0])
            turns.append({"model": model.name, "to_first_answer": round(first - dropped, 2)})
            turns[-1] |= {"to_last": round(last - dropped, 2), "gpu_mib": _gpu_memory()}
            print(f"alternate: {turns[-1]}", flush=True)
        return turns

    def _end_and_start(self) -> list[dict[str, Any]]:
        ten, turns = self._file("ten", workloads.short, TEN), []
        bodies = [json.loads(line)["body"] for line in ten.read_text(encoding="utf-8").splitlines()]
        server: peers.Serve | None = None
        try:
            for number in range(self._given.rounds * len(self._models)):
                model, asked = self._models[number % len(self._models)], time.monotonic()
                if server:
                    server.end()
                server = peers.Serve(str(model), self._args, self._work / f"serve-{number}")
                stamps = server.answer(bodies, WITHIN)
                turns.append({"model": model.name, "to_first_answer": round(min(stamps) - asked, 2)})
                turns[-1] |= {"to_last": round(max(stamps) - asked, 2), "gpu_mib": _gpu_memory()}
                print(f"end-and-start: {turns[-1]}", flush=True)
        finally:
            if server:
                server.end()
        return turns

    def _at_once(self) -> dict[str, Any]:
        dropped = self._submit(self._three, *self._models)
        stamps = sorted(self._answered(name) for name in self._names)
        gaps = [round(later[0] - earlier[1], 2) for earlier, later in pairwise(stamps)]
        return {"seconds": round(stamps[-1][1] - dropped, 1), "between_models": gaps}

    def _small(self) -> dict[str, Any]:
        thousands = self._given.thousands or (3000 if self._tiny else 20_000)
        self._submit(self._file("big", workloads.short, thousands), self._models[0])
        big = self._names[0]
        self._daemon.wait(rf" {re.escape(big)}: \d+ of \d+ done", WITHIN)
        dropped = self._submit(self._file("few", workloads.short, TEN), self._models[1])
        _, last = self._answered(self._names[0])
        _, end = self._answered(big)
        return {
            "big": thousands,
            "to_last_of_ten": round(last - dropped, 2),
            "big_ended_after_that": round(end - last, 1),
        }

    def _run_batch(self) -> dict[str, Any]:
        began, alone = time.monotonic(), []
        for model in self._models:
            work = self._work / f"run-batch-{model.name}"
            work.mkdir()
            timed = peers.RunBatch(str(model), self._args, work).answer([self._three], WITHIN)
            alone.append({"model": model.name, "start": round(timed.start, 1), "steady": round(timed.steady, 1)})
        return {"seconds": round(time.monotonic() - began, 1), "each": alone}


def _gpu_memory() -> list[int]:
    """Return the MiB in use on each GPU; [] where there is none."""
    with suppress(OSError, subprocess.CalledProcessError):
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        return [int(line) for line in subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()]
    return []


if __name__ == "__main__":
    main()
