#!/usr/bin/env python3
"""Times inbox-daemon and the ways to run vLLM by hand on the same requests and the same GPU, one after another.

Writes one table of ratios (OUT.md) and all numbers (OUT.json) after every row, so that a cut run keeps what it has.
Needs no GPU: without one it runs a tiny model on the CPU.

    tools/bench/compare.py --deadline 540                              all rows that fit into nine minutes
    tools/bench/compare.py --rows candidates,short:daemon              all peers of one workload, one of another
    tools/bench/compare.py --requests candidates=5000 --repeat 2
    tools/bench/compare.py --rows swap                                 from model to model, by sleep, by end and start

Without --model it makes Qwen3-4B's architecture with random weights, which answers nonsense at the real speed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import peers
import report
import workloads
from expected import SAMPLED_FILES, Expected
from talking import ROOT, Failed

ROWS = {
    "candidates": ("run-batch", "llm-chat", "run-batch-guide", "daemon"),
    "short": ("run-batch-1024", "llm-chat", "daemon"),
    "documents": ("run-batch-1024", "daemon"),
    "many-files": ("run-batch-guide", "daemon"),
    "small-during-big": ("daemon",),
}
REQUESTS = {"candidates": 2000, "short": 20_000, "documents": 2000, "many-files": 5000, "small-during-big": 20_000}
TINY_REQUESTS = {"candidates": 200, "short": 1000, "documents": 160, "many-files": 200, "small-during-big": 3000}
SMALL, TRIES = 10, 3

# What `--rows swap` has of swapping.py: how it is called, its part, and what it is told.
SWAPS = {
    "**inbox-daemon**, models.sleep": ("alternate", ["--setting", "sleep = true"]),
    "**inbox-daemon**, ending and starting": ("alternate", ["--setting", "sleep = false"]),
    "`vllm serve` ended and started, as llama-swap does": ("end-and-start", []),
}

Row = tuple[str, str]  # workload, peer


def main() -> None:
    given = arguments()
    with tempfile.TemporaryDirectory(prefix="compare-") as temporary:
        Bench(given, (given.work or Path(temporary)).resolve()).run()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", default=",".join(ROWS), help=f"WORKLOAD or WORKLOAD:PEER, …; peers: {', '.join(peers.PEERS)}"
    )
    parser.add_argument("--requests", action="append", default=[], metavar="WORKLOAD=N", help=f"instead of {REQUESTS}")
    parser.add_argument("--repeat", type=int, default=1, help="every row so often, there and back again")
    parser.add_argument(
        "--deadline", type=float, help="start no row that would not end within so many seconds from now"
    )
    parser.add_argument("--model", help="a folder or a name, for all peers")
    parser.add_argument(
        "--arg", action="append", default=[], metavar="KEY=VALUE", help="an engine argument, for all peers"
    )
    parser.add_argument("--tiny", action="store_true", help="the tiny model on the CPU; so without a GPU")
    parser.add_argument("--profile", action="store_true", help="have py-spy record daemon and worker during its rows")
    parser.add_argument("--work", type=Path, help="a folder for inputs, spools and logs (default: temporary)")
    parser.add_argument("--out", type=Path, default=Path("compare"), help="OUT.md and OUT.json (default: compare)")
    return parser.parse_args()


class Bench:
    """All rows of one call."""

    def __init__(self, given: argparse.Namespace, work: Path) -> None:
        self.began = time.monotonic()
        self.given, self.work = given, work
        self.tiny = given.tiny or not report.gpus()
        self.counts = dict(TINY_REQUESTS if self.tiny else REQUESTS)
        self.counts |= {name: int(count) for name, count in (pair.split("=") for pair in given.requests)}
        self.model, self.args = _model(given, self.tiny, work)
        self.args |= {key: _typed(value) for key, value in (pair.split("=", 1) for pair in given.arg)}
        self.expected = Expected(self.tiny, self.counts)
        self.told = report.circumstances() | {"model": given.model or self.model.name, "args": self.args}
        self.told |= {"requests": self.counts, "rows": [], "left_out": []}
        os.environ.setdefault("HF_HUB_OFFLINE", "1" if self.model.exists() else "0")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        if self.tiny:
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

    def run(self) -> None:
        self.writer = workloads.Writer(str(self.model))
        report.write(self.given.out, self.told)
        wanted = self.given.rows.split(",")
        if "swap" in wanted:
            self.swaps()
        rows = _rows([word for word in wanted if word != "swap"])
        for repeat in range(self.given.repeat):
            sessions = _sessions(rows)
            for peer, rows in sessions if repeat % 2 == 0 else reversed(sessions):
                self.session(peer, rows, repeat)
        print(self.given.out.with_name(self.given.out.name + ".md").read_text(encoding="utf-8"))

    def swaps(self) -> None:
        """Time going from one of three models to the next, each way in a process of its own."""
        ways = {how: way for how, way in SWAPS.items() if not self.tiny or "sleep = true" not in way[1]}  # CUDA's alone
        self.told["swap"] = {}
        for how, (part, flags) in ways.items():
            self.say(f"swap: {how} …")
            out = self.work / f"swap-{len(self.told['swap'])}"
            command = [sys.executable, Path(__file__).with_name("swapping.py"), "--parts", part, "--out", out, *flags]
            try:
                subprocess.run(command, check=True, timeout=max(1.0, self.left()))
                self.told["swap"][how] = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))[part]
            except (OSError, subprocess.SubprocessError, ValueError, KeyError) as failed:
                self.told["swap"][how] = {"failed": str(failed)}
            report.write(self.given.out, self.told)

    def session(self, name: str, rows: list[Row], repeat: int) -> None:
        """Run rows one after another in one process of a peer that keeps its engine, or one process each."""
        rows = [row for row in rows if self.fits(row, self.expected.start(name), repeat)]
        if not rows:
            return
        made, flags = peers.PEERS[name]
        if self.tiny:  # whose context is shorter than the guide's
            flags = {key: value for key, value in flags.items() if key != "max_model_len"}
        folder = self.work / f"{name}-{repeat}-{rows[0][0]}"
        folder.mkdir(parents=True, exist_ok=True)
        inputs = {row: self.inputs(row[0], repeat) for row in rows}
        peer = made(str(self.model), {**self.args, **flags, **self.kv_cache(rows[0][0])}, folder)
        before = _compiled()
        row = rows[0]
        try:
            peer.start(self.left())
            if name in ("llm-chat", "daemon"):
                peer.answer([self.requests("candidates", "warm", 32, "warm")], self.left())
            for row in rows:
                if self.fits(row, 0.0, repeat):  # once more: a start may have taken longer than was thought
                    self.row(row, peer, inputs[row], repeat, before)
        except Exception as failed:  # the machine may be borrowed: what can still be measured is
            why = str(failed) if isinstance(failed, Failed) else traceback.format_exc(limit=-3)
            self.add({"workload": row[0], "peer": name, "repeat": repeat, "failed": why})
            self.told["left_out"] += [f"{r[0]}:{name}, repeat {repeat}" for r in rows[rows.index(row) + 1 :]]
        finally:
            peer.stop()

    def row(self, row: Row, peer: Any, files: list[Path], repeat: int, before: set[str]) -> None:
        workload, name = row
        self.say(f"{workload}: {name} …")
        common = {"workload": workload, "peer": name, "repeat": repeat}
        with self.profiled(peer, f"{workload}-{repeat}"):
            if workload == "small-during-big":
                timed = self.small_during_big(peer, files, common)
            elif workload == "many-files":
                timed = self.many(peer, files)
            else:
                timed = [("", peer.answer(files, self.left()))]
        for variant, one in timed:
            self.add(common | {"variant": variant, "cold": bool(_compiled() - before)} | asdict(one))
            if workload in workloads.GENERATORS:
                self.expected.learn(workload, name, one.start, one.requests / (one.handed or one.steady))
        if name == "daemon":
            peer.prove(files[0])

    def many(self, peer: Any, files: list[Path]) -> list[tuple[str, peers.Timed]]:
        """Time many files; the first of `files` holds as many requests as all the others together."""
        one, *many = files
        if isinstance(peer, peers.Daemon):
            whole, each = peer.answer([one], self.left()), peer.answer(many, self.left())
            each.notes = [
                f"{each.handed or 0:.2f} s is {(each.handed or 0) / (whole.handed or 1):.2f} times the one file's"
            ]
            return [("one file", whole), (f"{len(many)} files", each)]
        timed = peer.answer(many[:SAMPLED_FILES], self.left())
        scale = len(many) / SAMPLED_FILES
        timed.notes = [f"{SAMPLED_FILES} of {len(many)} files run, all columns but tokens extrapolated"]
        extrapolated = {name: getattr(timed, name) * scale for name in ("start", "steady", "wall")}
        tokens = {
            name: int(getattr(timed, name) * scale) for name in ("input_tokens", "cached_tokens", "output_tokens")
        }
        whole = peers.Timed(requests=int(timed.requests * scale), notes=timed.notes, **extrapolated, **tokens)
        return [("once per file", whole)]

    def small_during_big(
        self, daemon: peers.Daemon, files: list[Path], common: report.Result
    ) -> list[tuple[str, peers.Timed]]:
        """Drop ten requests on an idle engine and while a big batch runs; return how the big one went.

        Their seconds from drop to receipt are told at once.
        """
        big, *small = files
        count = self.counts["small-during-big"]
        idle = [daemon.answer([file], self.left()).handed for file in small[:TRIES]]
        dropped = daemon.drop([big])
        daemon.until(lambda: daemon.done(big) >= count // 100, self.left(), "the big batch runs")
        during: list[float | None] = []
        done = 0
        for file in small[TRIES:]:
            handed = daemon.answer([file], self.left()).handed
            if (counted := daemon.done(big)) >= count:
                break
            during.append(handed)
            done = counted
        if not during:
            raise Failed("the big batch was over before the small one; give more --requests small-during-big=N")
        self.add(common | {"idle": idle, "during": during, "requests": count, "big_done": done})
        return [("the big one", daemon.collect([big], dropped, self.left()))]

    # -- inputs

    def inputs(self, workload: str, repeat: int) -> list[Path]:
        count = self.counts[workload]
        if workload == "many-files":
            files = 100 if count >= 2000 else 10
            sizes = [("one", count), *((f"many-{i:03d}", count // files) for i in range(files))]
            return [self.requests("candidates", name, size, f"{repeat} {name}") for name, size in sizes]
        if workload == "small-during-big":
            small = [self.requests("candidates", f"small-{i}", SMALL, f"{repeat} small {i}") for i in range(2 * TRIES)]
            return [self.requests("candidates", "big", count, f"{repeat} big"), *small]
        return [self.requests(workload, workload, count, repeat)]

    def requests(self, kind: str, name: str, count: int, seed: object) -> Path:
        """Write a batch file, once for all peers that are to answer it."""
        folder = self.work / "inputs" / f"{seed}-{count}".replace(" ", "-")
        file = folder / f"{name}.jsonl"
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            generated = workloads.GENERATORS[kind](self.writer, count, seed)
            file.write_text("".join(json.dumps(one) + "\n" for one in generated), encoding="utf-8")
        return file

    def kv_cache(self, workload: str) -> dict[str, int]:
        """Hold the KV cache of the documents to about half of them."""
        if workload != "documents":
            return {}
        block = 128 if self.tiny else 16
        tokens = workloads.kv_tokens(self.counts["documents"] // workloads.QUESTIONS)
        return {"num_gpu_blocks_override": tokens // block}

    # -- time

    def left(self) -> float:
        """Seconds until the deadline; an hour where there is none."""
        return self.given.deadline - (time.monotonic() - self.began) if self.given.deadline else 3600.0

    def fits(self, row: Row, start: float, repeat: int) -> bool:
        needed = start + self.expected.seconds(*row)
        if needed <= self.left():
            return True
        name = f"{row[0]}:{row[1]}, repeat {repeat} (about {needed:.0f} s)"
        self.told["left_out"].append(name)
        self.say(f"left out: {name}")
        report.write(self.given.out, self.told)
        return False

    # -- telling

    def add(self, result: report.Result) -> None:
        self.told["rows"].append(result)
        report.write(self.given.out, self.told)
        self.say(json.dumps({k: v for k, v in result.items() if k not in ("repeat", "cold", "notes")}))

    def say(self, line: str) -> None:
        print(f"[{time.monotonic() - self.began:6.1f} s] {line}", flush=True)

    @contextmanager
    def profiled(self, peer: Any, name: str) -> Iterator[None]:
        """Record collapsed stacks of daemon and worker, beside OUT."""
        if not self.given.profile or not isinstance(peer, peers.Daemon):
            yield
            return
        spies = []
        for pid in peer.processes():
            out = self.given.out.with_name(f"{self.given.out.name}-{name}-{pid}.stacks")
            command = ["py-spy", "record", "--pid", str(pid), "--format", "raw", "--output", str(out), "--nonblocking"]
            spies.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        yield
        for spy in spies:
            spy.send_signal(2)
            spy.wait(60)


def _rows(wanted: Sequence[str]) -> list[Row]:
    rows = []
    for word in wanted:
        workload, _, peer = word.partition(":")
        if workload not in ROWS or (peer and peer not in peers.PEERS):
            raise SystemExit(
                f"--rows {word}: workloads are {', '.join(ROWS)} and swap; peers are {', '.join(peers.PEERS)}"
            )
        rows += [(workload, one) for one in ([peer] if peer else ROWS[workload])]
    return rows


def _sessions(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    """Rows that one process can answer, together: run-batch starts anew each time, the documents' KV cache is small."""
    sessions: dict[tuple[str, str], list[Row]] = {}
    for workload, peer in rows:
        alone = workload if peer.startswith("run-batch") or workload == "documents" else ""
        sessions.setdefault((peer, alone), []).append((workload, peer))
    return [(peer, together) for (peer, _), together in sessions.items()]


def _model(given: argparse.Namespace, tiny: bool, work: Path) -> tuple[Path, dict[str, Any]]:
    """Return the model and the engine arguments that come with it."""
    if given.model:
        return Path(given.model), {}
    folder = work / ("tiny-model" if tiny else "Qwen3-4B-random")
    maker = ROOT / "tools" / ("make_tiny_model.py" if tiny else "bench/make_model_shape.py")
    subprocess.run([sys.executable, maker, folder], check=True)
    return folder, {"enforce_eager": True, "max_model_len": 2048} if tiny else {"load_format": "dummy"}


def _compiled() -> set[str]:
    """What vLLM's compile cache holds."""
    cache = Path(os.environ.get("VLLM_CACHE_ROOT", Path.home() / ".cache" / "vllm"))
    return {str(path) for path in cache.glob("torch_*/*")} | {str(path) for path in cache.glob("torch_*/*/rank*")}


def _typed(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


if __name__ == "__main__":
    main()
