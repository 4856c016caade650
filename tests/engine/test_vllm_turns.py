"""Several models in one daemon with the real vLLM: each answers as it does alone, and each has its turn."""

from __future__ import annotations

import itertools
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

pytestmark = [pytest.mark.vllm, pytest.mark.long, pytest.mark.timeout(1800)]  # nine starts of an engine

Start = Callable[..., Daemon]
QWEN, GEMMA, LLAMA = "tiny/qwen", "tiny/gemma", "tiny/llama"


@pytest.fixture(scope="session")
def three(tiny_model: Path) -> dict[str, Path]:
    """Models of three architectures."""
    others = {GEMMA: "gemma", LLAMA: "llama"}
    for kind in others.values():
        maker = [sys.executable, ROOT / "tests" / "tiny_models.py", kind, ROOT / ".venv" / f"tiny-{kind}"]
        subprocess.run(maker, check=True)
    return {QWEN: tiny_model} | {name: ROOT / ".venv" / f"tiny-{kind}" for name, kind in others.items()}


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
    (spool / "inbox" / "all.jsonl").write_bytes(jsonl(asked(60, str(model))))
    return start_daemon(spool=spool, kind="vllm", arguments=["--drain"], environment=served)


def test_each_of_three_models_answers_as_it_does_alone_and_an_urgent_file_comes_within_its_turn(
    start_daemon: Start, tmp_path: Path, three: dict[str, Path]
) -> None:
    each = {name: alone(start_daemon, tmp_path / name, folder) for name, folder in three.items()}
    assert {daemon.ended(3 * LOADED) for daemon in each.values()} == {0}
    of = {name: said(daemon, "all") for name, daemon in each.items()}
    for one, other in itertools.combinations(of.values(), 2):
        assert sum(one[id] != other[id] for id in one) > 30, "two models, two answers"

    tables = "".join(f'[model."{name}"]\npath = "{folder}"\n' for name, folder in three.items())
    settings = f'[models]\nswap_grace = 1.0\naliases = {{qwen = "{QWEN}"}}\n{tables}[inbox.priorities]\n"urgent" = 5\n'
    daemon = start_daemon(kind="vllm", settings=settings, environment={"INBOX_DAEMON_ENGINE__SPARE_WORKER": "true"})
    mixed, names = jsonl(asked(60, "qwen", GEMMA, LLAMA)), (QWEN, GEMMA, LLAMA)
    (tmp_path / "mixed.jsonl").write_bytes(mixed)
    daemon.drop("mixed.jsonl", mixed)
    for name in names:  # three files at once, beside the one that is for all
        daemon.drop(f"only@{name.partition('/')[2]}.jsonl", jsonl(asked(60, QWEN)))
    daemon.finished("mixed", 3 * LOADED)
    assert said(daemon, "mixed") == {f"r{at}": of[names[at % 3]][f"r{at}"] for at in range(60)}
    bodies = [line["response"]["body"]["model"] for line in lines(daemon.outbox("mixed") / "results.jsonl")]
    assert bodies == [QWEN, GEMMA, LLAMA] * 20
    proven(daemon.outbox("mixed"), tmp_path / "mixed.jsonl")
    for name in names:
        batch = f"only@{name.partition('/')[2]}"
        daemon.finished(batch, 3 * LOADED)
        assert said(daemon, batch) == of[name], "its name says the model, whatever its lines name"
    assert re.findall(r"engine (\d) starting", daemon.text()) == ["1", "2", "3"], "one load of each"

    daemon.drop("long.jsonl", jsonl(asked(4000, QWEN, max_tokens=200, min_tokens=200)))
    eventually(lambda: daemon.done("long") > 10, LOADED, "the long one runs")
    daemon.drop("urgent.jsonl", jsonl(asked(60, GEMMA)))
    waiting = eventually(lambda: [one for one in daemon.status("urgent").get("models") or () if one["turn_by"]], 30)
    assert (waiting[0]["model"], waiting[0]["state"]) == (GEMMA, "waiting")
    eventually(lambda: f"{QWEN} gives way to {GEMMA}" in daemon.text(), LOADED, "its turn")
    assert time.time() <= waiting[0]["turn_by"] + 2.0
    daemon.finished("urgent", LOADED)
    assert said(daemon, "urgent") == of[GEMMA]
    assert re.findall(r"engine (\d) starting", daemon.text())[:5] == ["1", "2", "3", "1", "2"]
    (daemon.inbox / "long.cancel").touch()
    assert daemon.finished("long", 120)["engine_deaths"] == 0
    assert daemon.stop() == 0
