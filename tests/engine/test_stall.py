"""EngineCore stopped in mid-batch, on real vLLM: noticed, said, written down, replaced, and the batch ends whole."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from engines import LOADED, Engines, engine_view, process
from running import Daemon, custom_ids, eventually, jsonl, lines, request

pytestmark = [pytest.mark.vllm, pytest.mark.long, pytest.mark.timeout(600)]

STALL_AFTER = 8.0  # seconds; the counters of an engine that works move every second
REQUESTS = 1500


def edges(daemon: Daemon, state: str) -> list[dict[str, Any]]:
    path = daemon.spool / "alerts.jsonl"
    said = lines(path) if path.exists() else []
    return [edge for edge in said if (edge["alert"], edge["state"]) == ("NoProgress", state)]


def test_a_stopped_engine_core_is_an_alert_an_autopsy_a_restart_and_no_lost_answer(
    start_daemon: Callable[..., Daemon], tiny_model: Any, record_property: Callable[[str, object], None]
) -> None:
    bounds = {
        "INBOX_DAEMON_ENGINE__STALL_AFTER_ANSWERS": str(STALL_AFTER),
        "INBOX_DAEMON_ENGINE__IN_FLIGHT": "200",
    }
    daemon = start_daemon(kind="vllm", arguments=["--model", str(tiny_model)], environment=bounds)
    daemon.drop("b.jsonl", jsonl([request(f"r{i}", f"my secret is {i}", max_tokens=32) for i in range(REQUESTS)]))
    eventually(lambda: daemon.done("b") >= 200, LOADED, "200 requests done")
    engines, core = Engines(daemon), process(daemon, "VLLM::EngineCore")
    assert core is not None
    core.send_signal(signal.SIGSTOP)
    stopped_at = time.time()
    seconds: dict[str, float] = {}

    def next_is_ready(view: dict[str, Any]) -> bool:
        return view.get("starts") == 2 and view["state"] == "ready"

    def happens(what: str, predicate: Callable[[], object], within: float) -> None:
        eventually(predicate, within, what)
        seconds[what] = time.time() - stopped_at

    autopsy = daemon.outbox("b") / "autopsy-1.txt"
    happens("alert raised", lambda: edges(daemon, "raised"), 4 * STALL_AFTER)
    happens("autopsy in the outbox", autopsy.exists, 40)
    happens("old engine's processes gone", lambda: not engines.left(), 40)
    happens("next engine ready", lambda: next_is_ready(engine_view(daemon)), LOADED)
    happens("alert cleared", lambda: edges(daemon, "cleared"), 60)
    status = daemon.finished("b", 240)
    seconds["batch completed"] = time.time() - stopped_at

    print(f"\nstall_after_answers = {STALL_AFTER:.0f} s\n| seconds after SIGSTOP of EngineCore | |\n|---|---|")
    for what, after in seconds.items():
        print(f"| {what} | {after:.1f} |")
        record_property(what, round(after, 1))
    assert status["request_counts"] == {"total": REQUESTS, "completed": REQUESTS, "failed": 0}
    assert status["engine_deaths"] == 1
    assert custom_ids(daemon.outbox("b") / "results.jsonl") == [f"r{i}" for i in range(REQUESTS)]
    assert len(edges(daemon, "raised")) == len(edges(daemon, "cleared")) == 1

    text = autopsy.read_text()
    of_core = text.split(f"## process {core.pid}\n")[1].split("## ")[0]
    assert "State: T (stopped)" in of_core
    assert "worker.py" in text and "serve" in text  # the worker itself was running, and showed its stack
    assert "requests of this batch" in text and "line " in text
    assert "secret" not in text and "secret" not in daemon.text()
