"""Whatever bytes a dropped file has, it costs one clear error a line or one for the file, and little memory."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from fuzzing import MOST_MEMORY, Report, fuzz


def fuzzed(seconds: float, seed: int, keep: Path, least: int = 0) -> Report:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(fuzz, seconds, seed, keep, least).result()


def test_files_that_nobody_would_write_are_refused_in_the_same_words_by_check_and_ingest(tmp_path: Path) -> None:
    report = fuzzed(5, seed=1, keep=tmp_path, least=150)
    assert report.problems == []
    assert report.memory < MOST_MEMORY
    assert report.outcomes["requests that can run"] > 100
    assert len(report.outcomes) > 15, report.outcomes


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_for_as_long_as_asked(tmp_path: Path) -> None:
    report = fuzzed(float(os.environ.get("FUZZ_SECONDS", "600")), seed=time.time_ns(), keep=tmp_path)
    print(f"{report.executions:,} files, {report.memory:.0f} MB at most; {report.outcomes.most_common()}")
    assert report.problems == []
    assert report.memory < MOST_MEMORY
