"""The peers that `compare.py` times, each in processes of its own, with the stamps of what they say as clocks.

Three clocks. `steady`: from the first request handed to the engine until the last answer is back (the daemon: until
it is durable). `filed`: from a file of requests to one of answers. `wall`: everything, the engine's start included.
Knows no workloads and compares nothing.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.request import Request, urlopen

import psutil
from talking import Failed, Talking, environment

HERE = Path(__file__).resolve().parent

GUIDE = {
    "gpu_memory_utilization": 0.8,
    "enforce_eager": True,
    "max_model_len": 8192,
    "max_num_seqs": 256,
    "enable_prefix_caching": True,
}
LARGE = {"max_num_seqs": 1024, "max_num_batched_tokens": 16384}
_BAR = re.compile(r"Running batch: .*Completed \| (\d+)/(\d+) \[")


@dataclass(slots=True)
class Timed:
    """One file, or several, through one peer. Seconds and tokens.

    Attributes:
        filed: from the first look at the file until the last answer is written, with the engine warm; None where the
            peer starts an engine for each file.
        handed: the same from the drop on, settling included.
    """

    requests: int
    start: float
    steady: float
    wall: float
    filed: float | None = None
    handed: float | None = None
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    notes: list[str] = field(default_factory=list)


class Peer(Protocol):
    """Something that answers files. Raises Failed."""

    def start(self, within: float) -> None: ...
    def answer(self, files: Sequence[Path], within: float) -> Timed: ...
    def stop(self) -> None: ...


class Serve:
    """`vllm serve` of one model, which answers over HTTP until it is ended: what llama-swap starts and ends."""

    def __init__(self, model: str, args: Mapping[str, Any], log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        flags = [word for key, value in args.items() for word in _flag(key, value)]
        module = "vllm.entrypoints.openai.api_server"
        where = ["--host", "127.0.0.1", "--port", self._port]
        self._child = Talking([sys.executable, "-m", module, "--model", model, *where, *flags], log)
        self._model = model

    def answer(self, bodies: Sequence[Mapping[str, Any]], within: float) -> list[float]:
        """Ask all of these at once, as soon as it is up; return the stamps of the answers."""
        self._child.wait("Application startup complete", within)
        with ThreadPoolExecutor(len(bodies)) as pool:
            return list(pool.map(lambda body: self._one(body, within), bodies))

    def _one(self, body: Mapping[str, Any], within: float) -> float:
        url, asked = f"http://127.0.0.1:{self._port}/v1/chat/completions", {**body, "model": self._model}
        headers = {"Content-Type": "application/json"}
        try:
            with urlopen(Request(url, json.dumps(asked).encode(), headers), timeout=within) as said:
                said.read()
        except OSError as error:
            raise Failed(f"vllm serve: {error}; {self._child.tail()}") from error
        return time.monotonic()

    def end(self) -> None:
        self._child.end(grace=60)


class RunBatch:
    """`vllm run-batch`, which starts an engine for each file."""

    def __init__(self, model: str, args: Mapping[str, Any], work: Path) -> None:
        flags = [word for key, value in args.items() for word in _flag(key, value)]
        self._command = [sys.executable, "-m", _run_batch_module(), "--model", model, *flags]
        self._work = work
        self._count = 0

    def start(self, within: float) -> None: ...
    def stop(self) -> None: ...

    def answer(self, files: Sequence[Path], within: float) -> Timed:
        rows = [self._one(file, within) for file in files]
        total = lambda name: sum(getattr(row, name) for row in rows)  # noqa: E731
        names = ("requests", "start", "steady", "wall", "input_tokens", "cached_tokens", "output_tokens")
        return Timed(**{name: total(name) for name in names})

    def _one(self, file: Path, within: float) -> Timed:
        self._count += 1
        out = self._work / f"out-{self._count}.jsonl"
        child = Talking([*self._command, "-i", file, "-o", out], self._work / f"log-{self._count}")
        try:
            first, _ = child.wait(_BAR.pattern, within)
            child.wait("Running batch: 100%", within)
            status = child.process.wait(within)
        except subprocess.TimeoutExpired as late:
            raise Failed(f"it does not end; {child.tail()}") from late
        finally:
            child.end()
        ended = time.monotonic()
        last = next(stamp for stamp, line in child.lines if (bar := _BAR.search(line)) and bar[1] == bar[2])
        answers = [json.loads(line) for line in out.open(encoding="utf-8")]
        if status or any(answer["error"] for answer in answers):
            raise Failed(f"exit status {status}; {child.tail()}")
        usage = [answer["response"]["body"]["usage"] for answer in answers]
        return Timed(
            len(answers),
            first - child.began,
            last - first,
            ended - child.began,
            input_tokens=sum(one["prompt_tokens"] for one in usage),
            cached_tokens=sum((one.get("prompt_tokens_details") or {}).get("cached_tokens") or 0 for one in usage),
            output_tokens=sum(one["completion_tokens"] for one in usage),
        )


class LlmChat:
    """`LLM.chat` in `peer_llm_chat.py`: one engine for all files, one call for each."""

    def __init__(self, model: str, args: Mapping[str, Any], work: Path) -> None:
        self._arguments = json.dumps({"model": model, **args})
        self._work = work

    def start(self, within: float) -> None:
        self._child = Talking([sys.executable, HERE / "peer_llm_chat.py", self._arguments], self._work / "log")
        ready, _ = self._child.wait(r'^PEER \{"ready"', within)
        self._start = ready - self._child.began

    def answer(self, files: Sequence[Path], within: float) -> Timed:
        (file,) = files
        since = len(self._child.lines)
        self._child.say(json.dumps({"input": str(file), "output": str(self._work / f"out-{file.name}")}))
        said = json.loads(self._child.wait(r"^PEER (\{.*\})", within, since)[1][1])
        handed = said["reading"] + said["call"] + said["writing"]
        tokens = {name: said[name] for name in ("input_tokens", "cached_tokens", "output_tokens")}
        return Timed(said["answers"], self._start, said["call"], self._start + handed, handed, handed, **tokens)

    def stop(self) -> None:
        if hasattr(self, "_child"):
            self._child.end()


class Daemon:
    """A real `inbox-daemon run` with its default settings and the engine loaded at the start.

    `handed` is from the drop (a rename into the inbox) until the receipt is there, settling included; `filed` from the
    log's "claimed" to its "completed", `steady` from "accepted" to "N of N done".
    """

    def __init__(self, model: str, args: Mapping[str, Any], work: Path) -> None:
        self.spool = work / "spool"
        self._work = work
        self._config = work / "config.toml"
        settings = "".join(f"{key} = {json.dumps(value)}\n" for key, value in args.items())
        # A line of progress for each sync, of which there is one a second: the last of them ends `steady`.
        self._config.write_text(f"[engine]\npreload = true\n[daemon]\nlog_every = 1\n[engine.args]\n{settings}")
        self._command = [sys.executable, "-m", "inbox_daemon", "run", "--spool", self.spool, "--model", model]

    def start(self, within: float) -> None:
        shutil.rmtree(self.spool, ignore_errors=True)
        self._child = Talking([*self._command, "--config", self._config], self._work / "log")
        ready, _ = self._child.wait(r"engine( 1)? ready: ", within)
        self.until(self._all_ready, within, "all engines are ready")
        self._start = max(ready, *(stamp for stamp, line in self._child.lines if " ready: vllm" in line)) - (
            self._child.began
        )

    def _all_ready(self) -> bool:
        """Whether each engine that there is to be answers."""
        said = [json.loads(path.read_text(encoding="utf-8")) for path in (self.spool / "daemons").glob("[!.]*.json")]
        return bool(said) and all(engine["state"] == "ready" for one in said for engine in one["engines"])

    def answer(self, files: Sequence[Path], within: float) -> Timed:
        return self.collect(files, self.drop(files), within)

    def collect(self, files: Sequence[Path], dropped: float, within: float) -> Timed:
        """Wait for the receipts of files dropped at `dropped`, and time them."""
        receipts = [self.receipt(file, within) for file in files]
        handed = time.monotonic() - dropped
        for file in files:  # what it said may still be in the pipe
            self._child.wait(rf" {re.escape(file.stem)}: completed: ", within)
        requests = sum(receipt["answers"] for receipt in receipts)
        if any(receipt["errors"] for receipt in receipts):
            raise Failed(f"{sum(r['errors'] for r in receipts)} requests ended as errors; {self._child.tail()}")
        stems = {file.stem for file in files}
        said = [(stamp, word) for stamp, line in self._child.lines if (word := _word(line, stems))]
        claimed, accepted = (min(stamp for stamp, word in said if word == one) for one in ("claimed", "accepted"))
        done, completed = (max(stamp for stamp, word in said if word == one) for one in ("done", "completed"))
        usage = [receipt["usage"] for receipt in receipts]
        return Timed(
            requests,
            self._start,
            done - accepted,
            self._start + handed,
            completed - claimed,
            handed,
            input_tokens=sum(one["input_tokens"] for one in usage),
            cached_tokens=sum(one["input_tokens_details"]["cached_tokens"] for one in usage),
            output_tokens=sum(one["output_tokens"] for one in usage),
        )

    def drop(self, files: Sequence[Path]) -> float:
        """Copy files beside the inbox, rename them into it; return the stamp of the first rename."""
        inbox = self.spool / "inbox"
        for file in files:
            shutil.copyfile(file, inbox / f".{file.name}.uploading")
        dropped = time.monotonic()
        for file in files:
            (inbox / f".{file.name}.uploading").rename(inbox / file.name)
        return dropped

    def receipt(self, file: Path, within: float) -> dict[str, Any]:
        """Wait for a batch's receipt."""
        path = self.spool / "outbox" / file.stem / "receipt.json"
        self.until(path.exists, within, f"there is {path}")
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def until(self, holds: Any, within: float, what: str) -> None:
        """Look often until something holds."""
        deadline = time.monotonic() + within
        while not holds():
            if self._child.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"not within {within:.0f} s: {what}; {self._child.tail()}")
            time.sleep(0.01)

    def done(self, file: Path) -> int:
        """How many requests of a batch are counted as done."""
        with suppress(FileNotFoundError, KeyError):
            path = self.spool / "outbox" / file.stem / "status.json"
            return int(json.loads(path.read_text(encoding="utf-8"))["request_counts"]["completed"])
        return 0

    def prove(self, file: Path) -> None:
        """Have `inbox-daemon verify` read everything again."""
        command = [sys.executable, "-m", "inbox_daemon", "verify", self.spool / "outbox" / file.stem, "--input", file]
        done = subprocess.run([*map(str, command)], env=environment(), capture_output=True, check=False)
        if done.returncode:
            raise Failed(f"verify: {done.stdout.decode()} {done.stderr.decode()}")

    def processes(self) -> list[int]:
        """The process ids of daemon and worker."""
        family = [psutil.Process(self._child.process.pid), *psutil.Process(self._child.process.pid).children()]
        return [one.pid for one in family if {"run", "inbox_daemon.engine.worker"} & set(one.cmdline())]

    def stop(self) -> None:
        if hasattr(self, "_child"):
            self._child.end(grace=30)


def _word(line: str, stems: set[str]) -> str:
    """Return what a line of the daemon's log says has happened to one of these batches, or ""."""
    said = re.search(r" (\S+): (claimed|accepted|completed|(\d+) of (\d+) (?=done))", line)
    if not said or said[1] not in stems:
        return ""
    return ("done" if said[3] == said[4] else "") if said[3] else said[2]


def _flag(key: str, value: Any) -> list[str]:
    flag = "--" + key.replace("_", "-")
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    return [flag, str(value)]


def _run_batch_module() -> str:
    spec = importlib.util.find_spec("vllm")
    assert spec is not None and spec.submodule_search_locations, "vLLM is not installed"
    newer = Path(spec.submodule_search_locations[0]) / "entrypoints" / "launchers" / "run_batch.py"
    return f"vllm.entrypoints.{'launchers' if newer.exists() else 'openai'}.run_batch"


PEERS: dict[str, tuple[type[RunBatch] | type[LlmChat] | type[Daemon], Mapping[str, Any]]] = {
    "run-batch": (RunBatch, {}),
    "run-batch-guide": (RunBatch, GUIDE),
    "run-batch-1024": (RunBatch, LARGE),
    "llm-chat": (LlmChat, {}),
    "daemon": (Daemon, {}),
}
