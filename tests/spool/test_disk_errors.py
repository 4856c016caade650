"""Every file operation refused by the disk, once and for a long time: nothing is lost, and it goes on by itself."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from aftermath import Finding, Sabotage, Scene, blow
from crashing import REFUSALS, Strike, refusals
from scenes import cancelled, dropped, recalled, refused, rejected, resumed, unharmed

from inbox_daemon import batches
from inbox_daemon.batch.life import Life
from inbox_daemon.inbox import taking
from inbox_daemon.spool import files

pytestmark = pytest.mark.matrix

A_LONG_TIME = 12  # operations that fail one after another, over several attempts at each batch

# What only tidies up, or serves views, says nothing when it fails: it is done again, or nobody misses it.
SILENT = ("mkdir SPOOL", "fsync work", ".* daemons/", ".* work/gone-", ".* work/.probe")


def strikes(operations: Sequence[str]) -> list[Strike]:
    """Return every error at every operation that can meet it, once and for a long time."""
    return refusals(operations, (1, A_LONG_TIME))


def one_of_each(operations: Sequence[str]) -> list[Strike]:
    """Return a strike at the first operation of each kind."""
    found: dict[str, Strike] = {}
    for error, kinds in REFUSALS:
        able = (kind for what in operations if (kind := what.split()[0]) in kinds)
        for at, kind in enumerate(able, 1):
            found.setdefault(kind, Strike(at, error=error, kinds=kinds))
    return list(found.values())


def unsaid(finding: Finding) -> list[str]:
    """Return the failed operations whose path the log does not name, and writes whose missing bytes it does not."""
    missing = []
    for operation in finding.struck.failed:
        if any(re.match(silent, operation) for silent in SILENT):
            continue
        kind, path = operation.split(" -> ")[0].split(" ", 1)
        names = (path, re.sub(r"/\.([^/]+)\.new$", r"/\1", path))  # of a file that is replaced, either name will do
        named = [line for line in finding.struck.log.splitlines() if any(name in line for name in names)]
        if not named:
            missing.append(operation)
        elif kind == "write" and not any("bytes are missing" in line for line in named):
            missing.append(f"{operation}: how much is missing")
    return missing


def not_as_promised(finding: Finding) -> list[str]:
    struck = finding.struck
    problems = list(finding.problems)
    problems += [f"synced again after its sync had failed: {path}" for path in struck.resynced]
    problems += [f"left open: {path}" for path in struck.leaked]
    problems += [f"not in the log: {what}; it is {struck.log}" for what in unsaid(finding)]
    return problems


def struck(pool: ProcessPoolExecutor, scene: Scene, folder: Path, every: int, sabotage: Sabotage = None) -> list[str]:
    """Run the daemon once for every `every`-th strike, and for one at each kind of operation.

    Return what is not as promised, and print the numbers.
    """
    operations = unharmed(pool, scene, folder / "unharmed")
    jobs = [(strike,) for strike in dict.fromkeys([*one_of_each(operations), *strikes(operations)[::every]])]
    places = (folder / str(n) / "spool" for n in itertools.count())
    findings = list(pool.map(blow, itertools.repeat(scene), places, jobs, itertools.repeat(sabotage)))
    problems = [f"{finding.blows}: {problem}" for finding in findings for problem in not_as_promised(finding)]
    failed = sum(len(finding.struck.failed) for finding in findings)
    said = (
        f"{len(operations)} operations, {len(jobs)} runs, {failed} operations refused, {len(problems)} promises broken"
    )
    print(f"{scene.start.name}: {said}")
    assert all(finding.struck.failed for finding in findings)
    return problems


@pytest.mark.parametrize(("start", "every"), [(dropped, 11), (resumed, 19), (rejected, 37)])
def test_what_the_disk_refuses_costs_time_and_nothing_else(
    pool: ProcessPoolExecutor, tmp_path: Path, start: Callable[[Path], Scene], every: int
) -> None:
    assert struck(pool, start(tmp_path / start.__name__), tmp_path, every) == []


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("start", [dropped, refused, rejected, cancelled, recalled, resumed])
def test_every_operation_may_be_refused(
    pool: ProcessPoolExecutor, tmp_path: Path, start: Callable[[Path], Scene]
) -> None:
    assert struck(pool, start(tmp_path / start.__name__), tmp_path, every=1) == []


# -- would it notice?


def tries_a_failed_sync_again() -> None:
    def sync(fd: int, path: Path) -> None:
        try:
            os.fdatasync(fd)
        except OSError:
            os.fdatasync(fd)

    files.sync = sync


def throws_away_what_it_could_not_finish() -> None:
    Life.let_go = lambda self: self.held.remove()  # type: ignore[method-assign]


def says_only_that_something_failed() -> None:
    batches.told = taking.told = lambda error: "I/O error"


def leaves_files_open() -> None:
    files.Writer.__exit__ = lambda self, *_: None  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("sabotage", "words"),
    [
        (tries_a_failed_sync_again, "synced again"),
        (throws_away_what_it_could_not_finish, "the dropped file is gone"),
        (says_only_that_something_failed, "not in the log"),
        (leaves_files_open, "left open"),
    ],
)
def test_a_daemon_that_is_wrong_only_when_the_disk_fails_is_found_out(
    pool: ProcessPoolExecutor, tmp_path: Path, sabotage: Callable[[], None], words: str
) -> None:
    problems = struck(pool, dropped(tmp_path / "dropped"), tmp_path, every=61, sabotage=sabotage)
    assert any(words in problem for problem in problems), problems
