"""What the worker hosts here in place of vLLM: it ends, hangs or falls silent where a request, or a file, tells it to.

The worker, its frames, the daemon and every signal are the real ones; only the model is missing, so that an engine
starts in a second. `FRAIL` is a folder with what a start is to die of and what has been struck already. It and its
EngineCore ignore SIGTERM, as a process deep in a driver does. No test lives here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from inbox_daemon.engine.worker import words
from inbox_daemon.records import EngineStats, Outcome, Request
from inbox_daemon.request.output import answer_line
from inbox_daemon.text import dumps

FRAIL = Path(os.environ["FRAIL"])
LOADS = FRAIL / "loads"  # a line for each start to come: what it dies of; none: it lives
CORE = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1e6)"


class VllmHost:
    def __init__(self, core: subprocess.Popen[bytes]) -> None:
        self._core = core
        self._answered = 0
        self._mute = False

    @classmethod
    def places(cls, options: Mapping[str, Any]) -> list[str]:
        return [""] * int(options["args"].get("data_parallel_size", 1))

    @classmethod
    @asynccontextmanager
    async def load(cls, options: Mapping[str, Any]) -> AsyncIterator[VllmHost]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        logging.getLogger("vllm").addHandler(logging.StreamHandler(sys.stdout))  # as vLLM has one
        words.watch_over_loggers()
        core = subprocess.Popen([sys.executable, "-c", CORE, "EngineCore"])
        with suppress(FileNotFoundError):
            first, *others = LOADS.read_text().splitlines() or [""]
            LOADS.write_text("\n".join(others))
            strike(first, core)
        words.begin()
        yield cls(core)

    def describe(self) -> dict[str, Any]:
        frail = {"kind": "frail", "version": "0", "model": "frail", "settings": {"enable_sleep_mode": True}, "gpus": []}
        return frail | {"in_flight": 4, "max_seqs": 4, "weights_bytes": 0}

    async def sleep(self) -> None:
        (FRAIL / "slept").touch()

    async def wake(self) -> None:
        (FRAIL / "woken").touch()

    @property
    def dead(self) -> bool:
        return self._core.poll() is not None

    async def answer(self, request: Request) -> Outcome | None:
        parsed = orjson.loads(request.line)
        text, _, order = parsed["body"]["messages"][0]["content"].partition("; ")
        kind, _, how = order.partition(": ")
        struck = FRAIL / f"struck {parsed['custom_id']}"
        if kind == "always" or (kind == "once" and not struck.exists()):
            struck.touch()
            if how == "talks":
                talk(text, parsed["body"]["seed"])
            self._mute = True  # what is in flight now, its EngineCore was to answer
            strike(how, self._core)
        await asyncio.sleep(1e6 if self._mute else 0.01)
        self._answered += 1
        body = {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
        return Outcome(request.ticket, answer_line(request.id, parsed["custom_id"], dumps(body)), False, 1, 0, 1)

    def stats(self) -> EngineStats:
        return EngineStats(output_tokens=self._answered)


def talk(text: str, number: int) -> None:
    """Say a request's text, and a number of it, in every way in which vLLM or a library might, and die of it."""
    log = logging.getLogger("vllm.frail")
    log.error("as an argument: %s", {"stop": [text]})
    log.error("as a number, where any text may stand: %s", number)
    log.error(f"put together: {text}")
    try:
        try:
            raise KeyError(text)
        except KeyError as first:
            raise ValueError(f"put together: {text}") from first
    except ValueError:
        log.exception("with an exception")
    print(f"printed: {text}", flush=True)
    print(f"1 error [type=x, input_value='{text}', input_type=str]", file=sys.stderr, flush=True)
    print(f"RuntimeError: printed: {text}", file=sys.stderr, flush=True)
    os._exit(1)


def strike(how: str, core: subprocess.Popen[bytes]) -> None:
    match how:
        case "exit 0" | "exit 1":
            print(f"RuntimeError: as told, {how}", file=sys.stderr, flush=True)
            os._exit(int(how[-1]))
        case "killed":  # as the kernel does where memory is short
            os.kill(os.getpid(), signal.SIGKILL)
        case "core killed":
            core.kill()
        case "core stopped":
            core.send_signal(signal.SIGSTOP)
        case "silent":
            time.sleep(1e6)
        case "gpu lost":
            print("NVRM: Xid (PCI:0000:65:00): 79, GPU has fallen off the bus.", file=sys.stderr, flush=True)
            os._exit(1)
