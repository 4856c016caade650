"""Worker processes before they are told what to load."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from inbox_daemon.config import EngineSettings
from inbox_daemon.config.models import Model
from inbox_daemon.engine import Place
from inbox_daemon.engine.local import LocalEngine
from inbox_daemon.engine.workers import WorkerProcess, Workers


def _workers() -> int:
    """How many of our children are workers; one that is just becoming a program has no command yet."""
    commands = [one.cmdline() for one in psutil.Process().children()]
    return sum(not command or "inbox_daemon.engine.worker" in command for command in commands)


@pytest.mark.parametrize(
    ("args", "spares", "expected"),
    [
        ({"data-parallel-size": 3}, True, 3),
        ({"data-parallel-size": 3}, False, 1),  # the others come when the first has said where they go
        ({"data_parallel_size": 3, "enable_expert_parallel": True}, True, 1),  # vLLM makes them itself
        ({"tensor_parallel_size": 2}, True, 1),
    ],
)
def test_the_engines_of_a_model_import_vllm_side_by_side(args: dict[str, Any], spares: bool, expected: int) -> None:
    workers = Workers(spares)
    engine = LocalEngine(workers, Model("none", EngineSettings(model="none", args=args), True), {}, 1, None)
    try:
        assert _workers() == expected
    finally:
        engine.kill()
        while not engine.gone():
            time.sleep(0.01)
        workers.close()
    assert _workers() == 0


def test_an_engine_that_was_given_its_place_has_no_others_import_beside_it() -> None:
    workers = Workers(spares=True)
    settings = EngineSettings(model="none", args={"data_parallel_size": 3})
    engines = []
    try:
        for number in (1, 2, 3):
            place = Place(number, 3, "") if number > 1 else None
            engines.append(LocalEngine(workers, Model("none", settings, True), {}, number, place))
            assert _workers() == 3, "those that wait are taken, and nobody imports for a fourth"
    finally:
        for engine in engines:
            engine.kill()
        while any(not engine.gone() for engine in engines):
            time.sleep(0.01)
        workers.close()
    assert _workers() == 0


def test_workers_that_are_not_needed_any_more_are_ended() -> None:
    workers = Workers(spares=True)
    for wanted in (3, 1, 2, 0):
        workers.prepare(wanted)
        assert _workers() == wanted
    workers.close()


def test_a_worker_is_of_its_parents_code_whatever_lies_in_the_folder_it_is_started_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "inbox_daemon").mkdir()
    (tmp_path / "inbox_daemon" / "__init__.py").write_text("raise SystemExit('another checkout')")
    monkeypatch.chdir(tmp_path)
    worker = WorkerProcess()
    worker.socket.settimeout(60)
    said = worker.socket.recv(1000)
    worker.kill()
    worker.process.wait()
    worker.clear()
    assert b"importing vLLM" in said


def test_a_host_without_room_for_a_worker_at_hand_costs_no_engine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workers = Workers(spares=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    open_before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    workers.prepare(2)
    assert "no worker is kept at hand any more: [Errno 2] No such file" in caplog.text
    with pytest.raises(FileNotFoundError):
        workers.take()
    assert set(os.listdir("/proc/self/fd")) == open_before  # noqa: PTH208
    workers.close()


def test_a_worker_that_is_cleared_twice_closes_no_file_of_anybody_else(tmp_path: Path) -> None:
    worker = WorkerProcess()
    worker.kill()
    worker.process.wait()
    number = worker.log
    worker.clear()
    answers = os.open(tmp_path / "answers", os.O_CREAT | os.O_WRONLY)
    os.dup2(answers, number)  # what the kernel does sooner or later; nothing, where it has
    try:
        worker.clear()
        assert os.path.samestat(os.fstat(number), (tmp_path / "answers").stat())
    finally:
        for descriptor in {answers, number}:
            os.close(descriptor)
    assert not worker.folder.exists()
