"""Blow after blow on the real vLLM while one batch runs: every request has its answer, and what each blow cost."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from engines import LOADED, Engines, process, proven, receipt_of
from running import Daemon, batch_of, custom_ids, eventually

pytestmark = [pytest.mark.vllm, pytest.mark.long, pytest.mark.timeout(3600)]

KILL, STOP = signal.SIGKILL, signal.SIGSTOP
BLOWS = [KILL, KILL, KILL, STOP, KILL, KILL, KILL, STOP, KILL, KILL, KILL, STOP, KILL]
REQUESTS = 2000
BETWEEN = 60  # answers at least between two blows, so that no request is in flight at two in a row
STALL_AFTER = 10  # seconds; the default, 600, is for models that take minutes over one prompt
SETTINGS = {
    "INBOX_DAEMON_ENGINE__STALL_AFTER": str(STALL_AFTER),
    "INBOX_DAEMON_ENGINE__IN_FLIGHT": "32",
    "INBOX_DAEMON_RESULTS__SEAL_EVERY": "50",
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one blow. Seconds are counted from the blow; `again` is the number of requests that were given back."""

    blow: str
    done: int
    noticed: float
    ready: float
    again: int

    def __str__(self) -> str:
        return f"| {self.blow} | {self.done} | {self.noticed:.1f} | {self.ready:.1f} | {self.again} |"


HEAD = "| EngineCore got | answers counted | noticed after, s | ready again after, s | requests computed again |"


def strike(daemon: Daemon, number: signal.Signals) -> Cost:
    """Give EngineCore this signal, wait until another engine is ready, and say what it cost."""
    deaths, starts = daemon.text().count("engine died: "), daemon.text().count("engine ready: ")
    engines = Engines(daemon)
    core = eventually(lambda: process(daemon, "VLLM::EngineCore"), 10, "an EngineCore")
    done = daemon.done("b")
    struck = time.monotonic()
    core.send_signal(number)
    eventually(lambda: daemon.text().count("engine died: ") > deaths, LOADED, "the death is noticed")
    noticed = time.monotonic() - struck
    engines.end_soon()
    eventually(lambda: daemon.text().count("engine ready: ") > starts, 2 * LOADED, "another engine")
    ready = time.monotonic() - struck
    again = re.findall(r"b: engine died with (\d+) requests in flight", daemon.text())
    return Cost(number.name, done, noticed, ready, int(again[-1]))


def test_ten_kills_and_three_stops_of_enginecore_cost_time_and_no_answer(
    start_daemon: Callable[..., Daemon],
    tiny_model: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    original = tmp_path / "b.jsonl"
    original.write_bytes(batch_of(REQUESTS, max_tokens=192))
    daemon = start_daemon(kind="vllm", arguments=["--model", str(tiny_model)], environment=SETTINGS)
    began = time.monotonic()
    daemon.drop("b.jsonl", original.read_bytes())
    costs: list[Cost] = []
    for number in BLOWS:
        due = daemon.done("b") + BETWEEN
        eventually(lambda due=due: daemon.done("b") >= due, LOADED + 60, f"{due} answers")
        costs.append(strike(daemon, number))
    status = daemon.finished("b", LOADED)
    seconds = time.monotonic() - began

    folder = daemon.outbox("b")
    assert status["request_counts"] == {"total": REQUESTS, "completed": REQUESTS, "failed": 0}
    assert custom_ids(folder / "results.jsonl") == custom_ids(original)
    assert (folder / "errors.jsonl").read_bytes() == b""
    proven(folder, original)
    assert receipt_of(folder)["engine_deaths"] == len(BLOWS)
    assert daemon.text().count("engine starting (") == len(BLOWS) + 1

    again = sum(cost.again for cost in costs)
    table = "\n".join([HEAD, "|---" * 5 + "|", *map(str, costs)])
    summary = f"{REQUESTS} answers, none twice, in {seconds:.0f} s; {again} requests computed again"
    record_property("cost", f"{summary}\n{table}")
    print(f"{summary}\n{table}")
