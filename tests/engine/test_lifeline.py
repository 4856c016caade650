"""No process of the engine outlives the worker, whether vLLM forks it, as on a GPU, or spawns it, as on a CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from running import eventually

from inbox_daemon.engine import stacks_file
from inbox_daemon.engine.worker.lifeline import SHOW_STACKS

# A worker; its EngineCore, started as vLLM starts it, plugins loaded once a process; and a process of EngineCore's own.
WORKER = r"""
import multiprocessing, os, signal, sys, threading
from inbox_daemon.engine.worker import lifeline

plugins_loaded = False
how = multiprocessing.get_context(sys.argv[1])

def load_plugins():
    global plugins_loaded
    if not plugins_loaded:
        plugins_loaded = True
        lifeline.take_part_where_spawned()

def waits_here(role):
    os.write(1, f"{role} {os.getpid()}\n".encode())  # at once: others say theirs
    signal.pause()

def core():
    load_plugins()
    how.Process(target=of_core).start()
    waits_here("core")

def of_core():
    load_plugins()
    waits_here("of core")

def of_thread(there):
    there.set()
    waits_here("of a thread")

def forks():
    there = how.Event()
    how.Process(target=of_thread, args=(there,)).start()
    there.wait()

if __name__ == "__main__":
    lifeline.begin()
    load_plugins()
    how.Process(target=core).start()
    if sys.argv[1] == "fork":
        thread = threading.Thread(target=forks)
        thread.start()
        thread.join()
    waits_here("worker")
"""


class Family:
    def __init__(self, folder: Path, how: str) -> None:
        self.folder = folder
        (folder / "worker.py").write_text(WORKER)
        self._said = folder / "said"
        self._wanted = 4 if how == "fork" else 3
        with self._said.open("wb") as output:
            command = [sys.executable, folder / "worker.py", how]
            environment = os.environ | {"TMPDIR": str(folder)}
            self.worker = subprocess.Popen(command, stdout=output, env=environment, start_new_session=True)

    def wait(self) -> None:
        eventually(lambda: len(self._lines()) == self._wanted, 30, "all of them wait")
        self.pids = {role: int(pid) for role, _, pid in (line.rpartition(" ") for line in self._lines())}

    def _lines(self) -> list[str]:
        return self._said.read_text().splitlines()

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.worker.pid, signal.SIGKILL)
        self.worker.wait()


@pytest.fixture(params=["fork", "spawn"])
def family(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Family]:
    family = Family(tmp_path, request.param)
    try:
        family.wait()
        yield family
    finally:
        family.end()


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_worker_that_is_killed_takes_every_process_of_its_engine_along(family: Family) -> None:
    family.worker.kill()
    for role in ("core", "of core"):
        eventually(lambda role=role: not _runs(family.pids[role]), 30, f"{role} is gone")


def test_each_process_of_an_engine_shows_its_own_stacks_when_asked(family: Family) -> None:
    shown = {"worker": "in <module>", "core": "in core", "of core": "in of_core"}
    for role, where in shown.items():
        pid = family.pids[role]
        os.kill(pid, SHOW_STACKS)
        stacks = stacks_file(family.folder, pid)
        eventually(lambda stacks=stacks, where=where: where in stacks.read_text(), 30, f"the stacks of {role}")
        assert "in waits_here" in stacks.read_text()


@pytest.mark.parametrize("family", ["fork"], indirect=True)
def test_what_a_thread_has_forked_does_not_end_with_the_thread(family: Family) -> None:
    """To the kernel a process's parent is a thread, and this one has ended."""
    os.kill(family.pids["of a thread"], SHOW_STACKS)
    stacks = stacks_file(family.folder, family.pids["of a thread"])
    eventually(lambda: "in waits_here" in stacks.read_text(), 30, "it is there and answers")
