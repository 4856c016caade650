"""Worker processes before they are told what to load."""

from __future__ import annotations

import os
from pathlib import Path

from inbox_daemon.engine.workers import WorkerProcess


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
