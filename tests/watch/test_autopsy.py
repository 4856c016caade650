"""What an autopsy sees of real processes: one that hangs, one that is stopped, one that never said how to be asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from running import eventually

from inbox_daemon.engine import stacks_file

# A worker with a child of its own, as vLLM has; `secret` stands for what must not be shown.
WORKER = """
import os, subprocess, sys, time
from inbox_daemon.engine.worker.lifeline import show_stacks_when_asked

def hangs_here(secret):
    print(os.getpid(), flush=True)
    time.sleep(600)

if sys.argv[1] == "worker":
    subprocess.Popen([sys.executable, __file__, "core"])
    subprocess.Popen([sys.executable, __file__, "stranger"])
if sys.argv[1] != "stranger":
    show_stacks_when_asked()
hangs_here("a secret prompt")
"""


@pytest.fixture
def family(tmp_path: Path) -> Iterator[psutil.Process]:
    """The worker, once it and its children hang."""
    (tmp_path / "hanging.py").write_text(WORKER)
    said = tmp_path / "said"
    with said.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, tmp_path / "hanging.py", "worker"],
            stdout=output,
            env=os.environ | {"TMPDIR": str(tmp_path)},
            start_new_session=True,
        )
    eventually(lambda: len(said.read_text().splitlines()) == 3, 30, "all three hang")
    yield psutil.Process(worker.pid)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


@pytest.fixture
def look(family: psutil.Process, tmp_path: Path) -> Callable[[], dict[str, str]]:
    def look() -> dict[str, str]:
        """The sections of what is found, by their titles."""
        command = [sys.executable, "-m", "inbox_daemon.watch.stacks", str(family.pid), str(tmp_path)]
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        return dict(section.split("\n", 1) for section in found.split("\n## ")[1:])

    return look


def child(worker: psutil.Process, which: str) -> psutil.Process:
    return next(one for one in worker.children() if one.cmdline()[-1] == which)


def seen(look: Callable[[], dict[str, str]], *where: psutil.Process) -> dict[str, str]:
    """What is found once all of these show their stacks: on a busy machine a second may not be enough for one."""

    def shown() -> dict[str, str]:
        found = look()
        stacks = [found[f"Python stacks of process {one.pid}"].split("py-spy")[0] for one in where]
        return found if all("in hangs_here" in one for one in stacks) else {}

    return eventually(shown, 30, "the stacks")


def test_a_hanging_process_shows_where_it_hangs_and_never_with_what(
    family: psutil.Process, look: Callable[[], dict[str, str]]
) -> None:
    both = family, child(family, "core")
    found = seen(look, *both)
    for one in both:
        assert "State: " in found[f"process {one.pid}"]
    assert "secret" not in str(found)
    assert "hanging.py worker" not in str(found)  # nor the command, among whose arguments a token may be


def test_a_stopped_process_is_seen_to_be_stopped(family: psutil.Process, look: Callable[[], dict[str, str]]) -> None:
    core = child(family, "core")
    core.suspend()
    found = seen(look, family)
    assert "State: T (stopped)" in found[f"process {core.pid}"]
    assert "faulthandler: no answer" in found[f"Python stacks of process {core.pid}"]


def test_a_process_that_does_not_know_the_signal_is_not_sent_it(
    family: psutil.Process, look: Callable[[], dict[str, str]], tmp_path: Path
) -> None:
    stranger = child(family, "stranger")
    assert not stacks_file(tmp_path, stranger.pid).exists()
    assert "not registered" in look()[f"Python stacks of process {stranger.pid}"]
    assert stranger.status() != psutil.STATUS_ZOMBIE
