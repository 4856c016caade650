"""`inbox-daemon top`: shows what is published, of a real run and in every state."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import said
from rich.console import Console
from running import Daemon, batch_of, eventually

from inbox_daemon.cli import top

Start = Callable[..., Daemon]
LOG = [
    {"at": 1.0, "level": "info", "text": "candidates: 7000 of 50000 done, 92.5/s"},
    {"at": 2.0, "level": "error", "text": "engine died: the worker was killed by SIGKILL"},
]


def drawn(*daemons: dict[str, Any], batches: Any = (), waiting: Any = None, width: int = 110) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(top.screen(daemons, batches, waiting or {}, time.time()))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def run(spool: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "inbox_daemon", "top", "--spool", str(spool), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_everything_that_the_daemon_says_is_in_the_picture() -> None:
    text = drawn(said.daemon(log=LOG), batches=[said.batch()], waiting={"half.jsonl": "ends in the middle of a line"})
    for words in (
        "candidates  in_progress",
        "7,003/50,000",
        "14,060  7 min 45 s",
        "half.jsonl",
        "ready for 15 min",
        "Qwen/Qwen3-4B (vllm 0.32.0)",
        "1,024 running, 512 waiting",
        "64%",
        "2 started, 1 died",
        "gpu-box, pid 4700",
        "400.0 GiB free",
        "GPU 1 NVIDIA H200",
        "129 of 140 GiB",
        "61 °C, 642 of 700 W, 1,980 MHz",
        "sw_power_cap",
        "31, 24 h 00 min ago",
        "pid 4711 128 GiB",
        "BatchLate for 1 min 00 s",
        "engine died: the worker was killed by SIGKILL",
    ):
        assert words in text, words


def row(text: str, engine: int) -> list[str]:
    """What the picture says of one engine of several."""
    return next(line.strip("│ ").split() for line in text.splitlines() if re.match(rf"│ {engine}  [a-z]", line))


def test_several_engines_are_shown_together_and_each_by_itself() -> None:
    engines = [
        said.engine(1, kv_cache_usage=0.6, starts=1, deaths=0),
        said.engine(2, kv_cache_usage=0.4, starts=1, deaths=0),
        said.engine(3, state="loading", phase="loading weights", since=time.time() - 61, starts=1, deaths=0),
        said.engine(4, state="backing_off", last_death="the model does not fit", starts=4, deaths=4),
    ]
    for width in (80, 110, 200):
        text = drawn(said.daemon(engines=engines), batches=[said.batch()], width=width)
        together = " ".join(" ".join(line.strip("│ ").split("│")[0] for line in text.splitlines()).split())
        assert "4 engines" in text
        assert "state 2 ready, 1 loading (loading weights), 1 backing_off" in together
        assert "2,048 running, 1,024 waiting" in together
        assert "50%" in text and "7 started, 4 died" in together
        assert row(text, 1)[:4] == ["1", "ready", "15", "min"]
        assert row(text, 1)[-3:] == ["1,024", "512", "60%"]
        assert row(text, 3)[:6] == ["3", "loading,", "loading", "weights", "1", "min"]
        assert row(text, 4)[-1] == "4"
        assert "engine 4 last died: the model does not fit" in text
        assert said.MODEL in text and "gpu-box-2" not in text
        assert max(map(len, text.splitlines())) == width


def test_engines_of_several_models_or_hosts_say_whose_they_are() -> None:
    text = drawn(said.daemon(engines=[said.engine(1), said.engine(2, model="BAAI/bge-m3", host="gpu-box-2")]))
    assert row(text, 1)[:4] == ["1", "ready", said.MODEL, "gpu-box"]
    assert row(text, 2)[:4] == ["2", "ready", "BAAI/bge-m3", "gpu-box-2"]
    assert "2 models" in text


def test_eight_engines_with_eight_gpus_fit_a_terminal_of_fifty_lines() -> None:
    gpus = {"state": "ok", "at": time.time(), "problem": None, "devices": [said.gpu(i, xid=31) for i in range(8)]}
    engines = [said.engine(number, model=f"model-{number % 2}", host=f"box-{number % 2}") for number in range(1, 9)]
    for width in (80, 200):
        text = drawn(said.daemon(engines=engines, gpus=gpus, log=LOG), batches=[said.batch()], width=width)
        assert len(text.splitlines()) <= 50
        assert row(text, 8)[:4] == ["8", "ready", "model-0", "box-0"] and row(text, 8)[-1] == "1"
        assert text.count("129/140 GiB") == text.count("Xid 31") == 8


@pytest.mark.parametrize(
    ("gpus", "words"),
    [
        ({"state": "absent", "devices": []}, "no NVIDIA GPU here"),
        ({"state": "no_driver", "problem": "Driver/library version mismatch", "devices": []}, "version mismatch"),
        ({"state": "silent", "problem": "NVML has not answered for 10 s", "devices": [said.gpu(0)]}, "for 10 s"),
        ({"state": "lost", "problem": "GPU 0 is gone", "devices": []}, "GPU 0 is gone"),
        ({"state": "ok", "devices": [{"index": 0, "name": None}]}, "GPU 0"),
    ],
)
def test_a_gpu_that_is_not_there_or_says_nothing_has_its_words(gpus: dict[str, Any], words: str) -> None:
    assert words in drawn(said.daemon(gpus=gpus))


def test_a_daemon_that_is_gone_or_silent_is_said() -> None:
    assert "no daemon runs on this spool" in drawn()
    assert "has said nothing lately" in drawn(said.daemon(alive=False))


def test_a_daemon_of_an_older_release_says_less_and_is_shown() -> None:
    old = {"hostname": "h", "pid": 1, "alive": True, "engine": {"state": "off"}, "waiting": {}}
    assert "h, pid 1" in drawn(old)
    text = drawn(said.of_schema_1(), batches=[said.batch(engine={"state": "ready"}, engines=None)])
    assert "this daemon is of another release" in text
    assert "7,003/50,000" in text and "GPU 1 NVIDIA H200" in text and "BatchLate" in text


def test_what_users_wrote_neither_steers_the_terminal_nor_breaks_the_frame() -> None:
    nasty = "a[red]\x1b[2J\u202e" + "x" * 400
    lines = [{"at": 1.0, "level": "info", "text": nasty}]
    text = drawn(said.daemon(log=lines), batches=[said.batch(nasty)], waiting={nasty: nasty})
    assert "\x1b" not in text and "\u202e" not in text
    assert max(map(len, text.splitlines())) == 110
    assert text.count("a[red]") == 4
    assert "in_progress" in text and "7 min 45 s" in text


def test_only_the_last_that_ended_are_shown_and_all_that_live() -> None:
    ended = [said.batch(f"old{i}", status="completed") for i in range(20)]
    text = drawn(said.daemon(), batches=[*ended, *(said.batch(f"new{i}") for i in range(5))])
    assert "old19" in text and "old16" not in text
    assert all(f"new{i}" in text for i in range(5))


@pytest.mark.slow
def test_a_real_run_in_a_terminal_and_as_a_picture(start_daemon: Start, tmp_path: Path) -> None:
    quiet = {"INBOX_DAEMON_DAEMON__LOG_EVERY": "1000000"}  # so that the first lines of the log stay in view
    daemon = start_daemon(environment=quiet | {"INBOX_DAEMON_ENGINE__NULL__RATE": "100"})
    daemon.drop("b.jsonl", batch_of(20_000))
    eventually(lambda: daemon.status("b").get("eta_seconds"), 30)
    eventually(lambda: "tok/s" in run(daemon.spool), 30)
    text = run(daemon.spool, "--once")
    assert "in_progress" in text and "/20,000" in text
    assert "ready for" in text
    assert "b: sealed part-" in text or "b: accepted: 20000 requests" in text
    run(daemon.spool, "--svg", str(tmp_path / "top.svg"))
    picture = (tmp_path / "top.svg").read_text()
    assert "/20,000" in "".join(ET.fromstring(picture).itertext()).replace("\xa0", " ")
    assert "@font-face" not in picture and "url(http" not in picture
