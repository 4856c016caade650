"""Every file operation refused by the disk: nothing stays open."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from aftermath import Scene, blow
from crashing import Strike
from scenes import dropped, rejected, resumed, unharmed

pytestmark = pytest.mark.matrix


@pytest.mark.parametrize("start", [dropped, resumed, rejected])
def test_a_file_operation_that_fails_leaves_no_file_open(
    pool: ProcessPoolExecutor, tmp_path: Path, start: Callable[[Path], Scene]
) -> None:
    scene = start(tmp_path / "start")
    operations = unharmed(pool, scene, tmp_path / "unharmed")
    places = (tmp_path / str(n) / "spool" for n in itertools.count())
    jobs = [(Strike(at, error=errno.EIO),) for at in range(1, len(operations) + 1)]
    findings = list(pool.map(blow, itertools.repeat(scene), places, jobs))
    assert [(finding.blows, finding.struck.leaked) for finding in findings if finding.struck.leaked] == []
    assert sum(bool(finding.struck.failed) for finding in findings) == len(operations)
