"""Killed at every file operation that changes the spool, and again while it recovers: every promise holds.

One run for each operation: the daemon is killed right before it, or in the middle of it where it is a write; what lies
there then must hold as it is; a restart must bring the batch to its end; one more restart must change nothing.
"""

from __future__ import annotations

import errno
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import orjson
import pytest
from aftermath import Scene, blow, copy, end_well, tree
from crashing import Strike, kills, run, second_kills
from scenes import (
    cancelled,
    dropped,
    for_two_models,
    name_in_use,
    recalled,
    refused,
    rejected,
    resent,
    resent_at_work,
    resumed,
    stood,
    stopped,
    unharmed,
)

from inbox_daemon.layout import Published
from inbox_daemon.spool import files
from inbox_daemon.spool.outcomes import Outcomes, Sealed

pytestmark = pytest.mark.matrix


# -- every way to be killed


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("start", "pairs"),
    [
        (dropped, 200),
        (refused, 40),
        (rejected, 40),
        (cancelled, 40),
        (recalled, 40),
        (resumed, 40),
        (stopped, 40),
        (resent, 40),
        (resent_at_work, 40),
        (stood, 20),
        (for_two_models, 40),
    ],
)
def test_killed_at_any_operation_and_again_while_it_recovers_it_keeps_every_promise(
    pool: ProcessPoolExecutor,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    start: Callable[[Path], Scene],
    pairs: int,
) -> None:
    scene = start(tmp_path / "start")
    operations = unharmed(pool, scene, tmp_path / "unharmed")
    plain = unharmed(pool, dropped(tmp_path / "plain"), tmp_path / "unharmed plain")
    alike = (
        0 if start is dropped else next(n for n, (a, b) in enumerate(zip(plain, operations, strict=False)) if a != b)
    )

    places = (tmp_path / str(n) / "spool" for n in itertools.count())
    once = [strike for strike in kills(operations) if strike.at > alike]
    findings = list(pool.map(blow, itertools.repeat(scene), places, [(strike,) for strike in once], chunksize=4))
    # What a sync only makes durable looks the same before and after it to one who kills a process.
    firsts = [
        (strike, finding.restart.operations)
        for strike, finding in zip(once, findings, strict=True)
        if strike.at == 1 or not operations[strike.at - 2].startswith(("fsync", "fdatasync"))
    ]
    twice = second_kills(firsts, pairs)
    findings += pool.map(blow, itertools.repeat(scene), places, twice, chunksize=4)

    problems = [f"{finding.blows}: {problem}" for finding in findings for problem in finding.problems]
    summary = f"{start.__name__}: {len(operations)} operations, {len(once)} killed once, {len(twice)} killed twice"
    record_property("crashes", f"{summary}, {len(problems)} promises broken")
    print(f"{summary}, {len(problems)} promises broken")
    assert problems == []
    escaped = sum(not finding.struck.killed for finding in findings)
    assert escaped <= (len(findings) // 10 if start is recalled else 0)  # when a cancel is seen is a matter of time


Controlled = tuple[str, bool, int]  # status, paused, priority


@pytest.mark.parametrize(
    ("ended", "names", "of_first", "of_second"),
    [
        (True, "b.pause b.jsonl b.cancel", ("completed", False, 0), ("cancelled", True, 0)),
        (False, "b.jsonl b.pause b.cancel", ("completed", False, 0), ("cancelled", True, 0)),
        (False, "b.cancel b.jsonl", ("cancelled", False, 0), ("completed", False, 0)),
        (False, "b.priority b.jsonl b.pause b.jsonl.resume", ("completed", False, 7), ("completed", False, 0)),
        (True, "b.jsonl b.delete", ("completed", False, 0), ("completed", False, 0)),
        (False, "b.cancel b.jsonl b.priority", ("cancelled", False, 0), ("completed", False, 7)),
    ],
)
def test_killed_or_refused_at_any_operation_of_a_claim_a_control_file_means_the_batch_that_it_came_for(
    pool: ProcessPoolExecutor, tmp_path: Path, ended: bool, names: str, of_first: Controlled, of_second: Controlled
) -> None:
    scene = name_in_use(tmp_path / "start", ended, *names.split())
    operations = unharmed(pool, scene, tmp_path / "unharmed")
    of_control = re.compile(r"inbox/b\.|/(expected|beside|pause|cancel|priority)\b")
    refused = [at for at, what in enumerate(operations, 1) if of_control.search(what)]
    killed = range(1, refused[-1] + 2)
    spools = [(0, tmp_path / "unharmed")]
    for ats, error in ((killed, 0), (refused, errno.EIO)):
        struck = list(each_struck(pool, scene.start / "spool", scene.settings, tmp_path / f"{error}", ats, error))
        spools += struck[len(ats) :]
    for at, spool in spools:
        told = [orjson.loads(Published(spool / "outbox" / name).status.read_bytes()) for name in ("b", "b.2")]
        became = [(one["status"], one["paused"], one["priority"]) for one in told]
        assert became == [of_first, of_second], f"{spool}: struck at {operations[at - 1]}"
        assert [*(spool / "inbox").iterdir(), *(spool / "work").iterdir()] == []


@pytest.mark.parametrize("start", [dropped, refused, rejected, cancelled, recalled])
def test_the_last_word_on_a_batch_is_on_the_disk_before_its_work_goes(
    pool: ProcessPoolExecutor, tmp_path: Path, start: Callable[[Path], Scene]
) -> None:
    operations = unharmed(pool, start(tmp_path / "start"), tmp_path / "unharmed")
    told = max(at for at, one in enumerate(operations) if one.startswith("rename") and one.endswith("b/status.json"))
    gone = next(at for at, one in enumerate(operations) if one.startswith("rename work/ID -> work/gone-ID"))
    assert "fsync outbox/b" in operations[told:gone]


# -- before the beginning


def test_killed_at_any_operation_while_the_outbox_is_told_of_half_a_file_it_is_taken_once_it_is_whole(
    pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    scene = dropped(tmp_path / "start")
    half = scene.start / "spool" / "inbox" / scene.dropped
    half.write_bytes(scene.original.read_bytes()[:-5])
    operations = unharmed(pool, scene, tmp_path / "unharmed")
    told = [n for n, what in enumerate(operations, 1) if ".standing" in what or "outbox/b" in what]
    assert len(told) > 8, operations
    spools = [tmp_path / str(at) / "spool" for at in told]
    for spool in spools:
        spool.parent.mkdir()
        copy(scene.start / "spool", spool)
    struck = [pool.submit(run, spool, scene.settings, Strike(at)) for spool, at in zip(spools, told, strict=True)]
    assert all(one.result().killed for one in struck)
    for spool in spools:
        (spool / "inbox" / scene.dropped).write_bytes(scene.original.read_bytes())
    problems = [pool.submit(end_well, spool, scene).result()[1] for spool in spools]
    assert [found for found in problems if found] == []


# -- after the end


def each_struck(
    pool: ProcessPoolExecutor, spool: Path, settings: str, folder: Path, ats: Sequence[int], error: int = 0
) -> Iterator[tuple[int, Path]]:
    """Yield each of these operations with a spool whose daemon was killed at it, or refused it with an error; then all
    again, run to the end.
    """
    places = {at: folder / str(at) / "spool" for at in ats}
    for place in places.values():
        place.parent.mkdir(parents=True)
        copy(spool, place)
    struck = [pool.submit(run, place, settings, Strike(at, error)) for at, place in places.items()]
    assert all(one.result().killed is not bool(error) for one in struck)
    yield from places.items()
    ended = [pool.submit(run, place, settings) for place in places.values()]
    assert all(one.result().status in (0, 3) for one in ended)
    yield from places.items()


def test_killed_at_any_operation_while_old_results_are_removed_it_goes_on_and_touches_nothing_else(
    pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    scene, settings = dropped(tmp_path / "start"), "[engine]\nkind = 'null'\n[results]\nkeep = '1m'\n"
    spool = scene.start / "spool"
    assert pool.submit(run, spool, scene.settings).result().status == 3
    receipt = Published(spool / "outbox" / "b").receipt
    said = orjson.loads(receipt.read_bytes())
    said["times"]["finished_at"] -= 3600
    receipt.write_bytes(orjson.dumps(said))
    copy(spool / "outbox" / "b", spool / "outbox" / "kept")  # somebody's, now
    kept = {path: seen for path, seen in tree(spool).items() if path.startswith("outbox/kept")}
    copy(spool, tmp_path / "unharmed")
    operations = pool.submit(run, tmp_path / "unharmed", settings).result().operations
    removals = [what for what in operations if what.startswith(("unlink outbox", "rmdir outbox"))]
    assert len(removals) > 7 and removals[-2:] == ["unlink outbox/b/receipt.json", "rmdir outbox/b"]
    struck = list(each_struck(pool, spool, settings, tmp_path, range(1, 1 + len(operations))))
    for at, place in struck[: len(operations)]:
        there = place / "outbox" / "b"
        assert not there.exists() or not list(there.iterdir()) or Published(there).receipt.exists(), operations[at - 1]
    for at, place in struck[len(operations) :]:
        left = {path: seen for path, seen in tree(place).items() if path.startswith("outbox/")}
        assert left == kept, operations[at - 1]


@pytest.mark.parametrize("said", ["", "results.jsonl\ninput.jsonl\n"])
def test_killed_or_refused_at_any_operation_while_a_control_file_deletes_it_is_done_to_the_end_and_nothing_else_goes(
    pool: ProcessPoolExecutor, tmp_path: Path, said: str
) -> None:
    scene = dropped(tmp_path / "start")
    spool = scene.start / "spool"
    assert pool.submit(run, spool, scene.settings).result().status == 3
    copy(spool / "outbox" / "b", spool / "outbox" / "kept")  # somebody's, now
    (spool / "inbox" / "b.delete").write_text(said)
    before = {path: seen for path, seen in tree(spool).items() if path.startswith("outbox/")}
    gone = {"outbox/b", "outbox/b/"} if not said else {f"outbox/b/{name}" for name in said.split()}
    after = {path: seen for path, seen in before.items() if path not in gone and (said or "outbox/b/" not in path)}
    operations = unharmed(pool, scene, tmp_path / "unharmed")
    removals = [
        at
        for at, what in enumerate(operations, 1)
        if re.search(r"(outbox/b|b\.delete|gone-deleted|fsync outbox)", what)
    ]
    assert len(removals) > 3
    for error, ats in ((0, range(1, 1 + len(operations))), (errno.EIO, removals)):
        struck = list(each_struck(pool, spool, scene.settings, tmp_path / f"{error}", ats, error))
        for at, place in struck[: len(ats)]:
            there = {path for path in tree(place) if path.startswith("outbox/")}
            assert there == before.keys() or there == after.keys() or said, f"{error} at {operations[at - 1]}"
        for at, place in struck[len(ats) :]:
            left = {path: seen for path, seen in tree(place).items() if path.startswith("outbox/")}
            assert left == after, f"{error} at {operations[at - 1]}"
            assert [*(place / "inbox").iterdir(), *(place / "work").iterdir()] == []


def test_killed_at_any_operation_after_its_receipt_the_operators_program_hears_of_a_batch(
    pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    scene = dropped(tmp_path / "start")
    tell = """told=$(sed 's/.*"folder":"//; s#/spool/outbox.*#/told#'); echo >> $told"""
    settings = f"{scene.settings}\n[batches]\nended = ['sh', '-c', '''{tell}''']\n"
    (tmp_path / "unharmed").mkdir()
    copy(scene.start / "spool", tmp_path / "unharmed" / "spool")
    operations = pool.submit(run, tmp_path / "unharmed" / "spool", settings).result().operations
    assert (tmp_path / "unharmed" / "told").read_text() == "\n", "once, where nothing happens"
    receipt = next(at for at, what in enumerate(operations, 1) if what.endswith("outbox/b/receipt.json"))
    for _, place in list(each_struck(pool, scene.start / "spool", settings, tmp_path, range(receipt, len(operations)))):
        assert (place.parent / "told").exists()
        assert list((place / "work").iterdir()) == []


# -- would it notice?


def writes_in_place() -> None:
    def write_whole(path: Path, data: bytes) -> None:
        with files.Writer(path, fresh=True) as writer:
            writer.write(data)
            writer.sync()

    files.write_whole = write_whole


def shows_a_part_too_late() -> None:
    def seal(self: Outcomes, published: Published) -> Sealed | None:
        if not self.open_lines or self._unsynced:
            return None
        self._open().close()
        self._writer = None
        part = self._next_part(published)
        files.move(self._work.open_part, part)
        files.duplicate(part, published.parts / part.name)
        self._parts.append(part)
        self.open_lines = 0
        return Sealed(part, [])

    Outcomes.seal = seal  # type: ignore[method-assign]


def forgets_an_interrupted_seal() -> None:
    Outcomes._finish_interrupted_seal = lambda self, published: None  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("start", "sabotage"),
    [(dropped, writes_in_place), (dropped, shows_a_part_too_late), (stopped, forgets_an_interrupted_seal)],
)
def test_a_daemon_that_is_wrong_only_when_killed_is_found_out(
    pool: ProcessPoolExecutor, tmp_path: Path, start: Callable[[Path], Scene], sabotage: Callable[[], None]
) -> None:
    scene = start(tmp_path / "start")
    operations = unharmed(pool, scene, tmp_path / "unharmed")
    assert pool.submit(end_well, tmp_path / "unharmed", scene, sabotage).result()[1] == []
    places = (tmp_path / str(n) / "spool" for n in itertools.count())
    jobs = [(strike,) for strike in kills(operations)]
    findings = pool.map(blow, itertools.repeat(scene), places, jobs, itertools.repeat(sabotage))
    assert next((finding.problems for finding in findings if finding.problems), None)
