"""What a small file costs the disk: the syncs that a promise needs, and no other."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from crashing import run
from running import batch_of

from inbox_daemon.spool import history

pytestmark = pytest.mark.matrix

SETTINGS = """
[engine]
kind = "null"
[inbox]
settle = 0
settle_unproven = 0
watch = "poll"
"""


def as_in_life() -> None:
    """`run` has what is by the clock happen at once or never."""
    history._SAVE_AFTER = 1.0


def test_a_small_file_costs_a_dozen_syncs_and_each_further_one_no_more(
    pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    counts = []
    for files in (1, 4):
        inbox = tmp_path / f"{files}" / "spool" / "inbox"
        inbox.mkdir(parents=True)
        for number in range(files):
            (inbox / f"b{number}.jsonl").write_bytes(batch_of(1))
        ended = pool.submit(run, inbox.parent, SETTINGS, sabotage=as_in_life).result()
        assert ended.status == 0, ended.log
        counts.append(sum(one.startswith(("fsync ", "fdatasync ")) for one in ended.operations))
    assert counts[0] <= 12
    assert counts[1] <= 4 * 12
