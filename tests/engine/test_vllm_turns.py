"""Several models in one daemon with the real vLLM: each answers as it does alone, and each has its turn."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engines import LOADED, proven
from running import ROOT, Daemon, eventually, jsonl, lines, request

pytestmark = [pytest.mark.vllm, pytest.mark.long, pytest.mark.timeout(1800)]  # six starts of an engine

Start = Callable[..., Daemon]
QWEN, GEMMA = "tiny/qwen", "tiny/gemma"


@pytest.fixture(scope="session")
def tiny_gemma() -> Path:
    model = ROOT / ".venv" / "tiny-gemma"
    subprocess.run([sys.executable, ROOT / "tests" / "tiny_models.py", "gemma", model], check=True)
    return model


def asked(count: int, *models: str, **body: Any) -> list[dict[str, Any]]:
    """Requests that have one greedy answer, for these models by turns."""
    text = "what comes after line {} of the file, and why is that so?"
    body = {"temperature": 0, "max_tokens": 24} | body
    return [request(f"r{at}", text.format(at), model=models[at % len(models)], **body) for at in range(count)]


def said(daemon: Daemon, name: str) -> dict[str, str]:
    """What each request was answered with."""
    found = lines(daemon.outbox(name) / "results.jsonl")
    return {one["custom_id"]: one["response"]["body"]["choices"][0]["message"]["content"] for one in found}


def alone(start_daemon: Start, spool: Path, model: Path) -> Daemon:
    """Have a daemon with this model and no other answer all requests."""
    served = {"INBOX_DAEMON_ENGINE__MODEL": str(model)}
    (spool / "inbox").mkdir(parents=True)
    (spool / "inbox" / "all.jsonl").write_bytes(jsonl(asked(40, str(model))))
    return start_daemon(spool=spool, kind="vllm", arguments=["--drain"], environment=served)


def test_each_of_two_models_answers_as_it_does_alone_and_an_urgent_file_comes_within_its_turn(
    start_daemon: Start, tmp_path: Path, tiny_model: Path, tiny_gemma: Path
) -> None:
    both = [alone(start_daemon, tmp_path / model.name, model) for model in (tiny_model, tiny_gemma)]
    assert [daemon.ended(LOADED) for daemon in both] == [0, 0]
    of_qwen, of_gemma = (said(daemon, "all") for daemon in both)
    assert sum(of_qwen[id] != of_gemma[id] for id in of_qwen) > 30, "two models, two answers"

    tables = f'[model."{QWEN}"]\npath = "{tiny_model}"\naliases = ["qwen"]\n[model."{GEMMA}"]\npath = "{tiny_gemma}"\n'
    urgent = '[models]\nswap_grace = 1.0\n[inbox.priorities]\n"urgent" = 5\n'
    settings = tables + urgent
    daemon = start_daemon(kind="vllm", settings=settings, environment={"INBOX_DAEMON_ENGINE__SPARE_WORKER": "true"})
    (tmp_path / "mixed.jsonl").write_bytes(jsonl(asked(40, "qwen", GEMMA)))
    daemon.drop("mixed.jsonl", (tmp_path / "mixed.jsonl").read_bytes())
    daemon.finished("mixed", LOADED)
    answers = said(daemon, "mixed")
    expected = {f"r{at}": (of_qwen, of_gemma)[at % 2][f"r{at}"] for at in range(40)}
    assert answers == expected
    bodies = [line["response"]["body"]["model"] for line in lines(daemon.outbox("mixed") / "results.jsonl")]
    assert bodies == [QWEN, GEMMA] * 20
    proven(daemon.outbox("mixed"), tmp_path / "mixed.jsonl")
    assert re.findall(r"engine (\d) starting", daemon.text()) == ["1", "2"], "one load of each"

    daemon.drop("long.jsonl", jsonl(asked(4000, QWEN, max_tokens=200, min_tokens=200)))
    eventually(lambda: daemon.done("long") > 10, LOADED, "the long one runs")
    daemon.drop("urgent.jsonl", jsonl(asked(40, GEMMA)))
    waiting = eventually(lambda: [one for one in daemon.status("urgent").get("models") or () if one["turn_by"]], 30)
    assert (waiting[0]["model"], waiting[0]["state"]) == (GEMMA, "waiting")
    eventually(lambda: f"{QWEN} gives way to {GEMMA}" in daemon.text(), LOADED, "its turn")
    assert time.time() <= waiting[0]["turn_by"] + 2.0
    daemon.finished("urgent", LOADED)
    assert said(daemon, "urgent") == of_gemma
    assert re.findall(r"engine (\d) starting", daemon.text())[:4] == ["1", "2", "1", "2"]
    (daemon.inbox / "long.cancel").touch()
    assert daemon.finished("long", 120)["engine_deaths"] == 0
    assert daemon.stop() == 0
