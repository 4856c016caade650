"""The web process's side of the disk, killed or refused at every file operation, and again while it recovers.

A client uploads, creates, withdraws and deletes, and asks again for what was not acknowledged: what was is done once.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from crashing import Strike, kills, refusals, second_kills
from webclient import CONTENT, DOES, NOW, Finding, blow, given_up, new_spool, played, wrong_at_the_end

from inbox_daemon.layout import Spool
from inbox_daemon.spool import files, folders, passage, store, submitted
from inbox_daemon.spool.passage import Passage
from inbox_daemon.spool.store import StoredFile
from inbox_daemon.spool.submitted import Asked
from inbox_daemon.weblayout import NEW, Stored

pytestmark = pytest.mark.matrix

STEPS = tuple(DOES)
CREATING = ("upload", "create", "third", "withdraw", "delete")


def unharmed(pool: ProcessPoolExecutor, place: Path, steps: Sequence[str]) -> list[str]:
    """Return the operations of a run to which nothing happens."""
    root = new_spool(place)
    ended = pool.submit(played, root, steps).result()
    assert (ended.status, wrong_at_the_end(root, steps, taken=False), ended.leaked) == (0, [], [])
    return ended.operations


def each(
    pool: ProcessPoolExecutor,
    folder: Path,
    steps: Sequence[str],
    blows: Sequence[Sequence[Strike]],
    sabotage: Callable[[], None] | None = None,
    with_daemon: bool = False,
    patience: int = 1,
) -> list[Finding]:
    places = (folder / str(n) for n in itertools.count())
    rest = (itertools.repeat(what) for what in (sabotage, with_daemon, patience))
    return list(pool.map(blow, places, itertools.repeat(steps), blows, *rest, chunksize=8))


def problems(findings: Sequence[Finding]) -> list[str]:
    return [f"{finding.blows}: {problem}" for finding in findings for problem in finding.problems]


def test_killed_at_any_operation_and_again_while_it_recovers_what_was_acknowledged_is_done_once(
    pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    operations = unharmed(pool, tmp_path / "unharmed", STEPS)
    assert len(operations) > 100
    once = kills(operations)
    findings = each(pool, tmp_path / "once", STEPS, [(strike,) for strike in once])
    assert all(finding.struck.killed for finding in findings)
    recoveries = [finding.restart.operations for finding in findings]
    twice = second_kills(list(zip(once, recoveries, strict=True)), 150)
    findings += each(pool, tmp_path / "twice", STEPS, twice)
    print(f"{len(operations)} operations, {len(once)} killed once, {len(twice)} killed twice")
    assert problems(findings) == []
    assert all(finding.struck.killed for finding in findings)


def test_killed_at_any_operation_beside_a_daemon_that_takes_the_files_each_creation_runs_once(
    pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    operations = unharmed(pool, tmp_path / "unharmed", CREATING)
    findings = each(pool, tmp_path, CREATING, [(strike,) for strike in kills(operations)], with_daemon=True)
    assert problems(findings) == []
    assert all(finding.struck.killed for finding in findings)


@pytest.mark.parametrize("times", [1, 12])
def test_whatever_the_disk_refuses_it_is_said_and_asked_for_again_it_is_done_once(
    pool: ProcessPoolExecutor, tmp_path: Path, times: int
) -> None:
    strikes = refusals(unharmed(pool, tmp_path / "unharmed", STEPS), (times,))
    findings = each(pool, tmp_path, STEPS, [(strike,) for strike in strikes[:: 2 if times == 1 else 7]], patience=30)
    print(f"{len(findings)} runs, {sum(len(finding.struck.failed) for finding in findings)} operations refused")
    assert all(finding.struck.failed for finding in findings)
    assert problems(findings) == []


def test_a_creation_that_the_disk_refused_is_none_though_its_client_gives_up(
    pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    steps = ("upload", "create", "others")
    strikes = refusals(unharmed(pool, tmp_path / "unharmed", steps))
    places = (tmp_path / str(n) for n in itertools.count())
    ended = list(pool.map(given_up, places, itertools.repeat(steps), strikes, chunksize=8))
    assert [problem for _, problems in ended for problem in problems] == []
    assert all(struck.failed for struck, _ in ended)
    said = [struck for struck, _ in ended if struck.status]
    assert len(said) > len(ended) // 2, "what is refused before the acceptance is said to the client"


# -- two at once


def created_at(root: Path, moment: float, upload: str, idempotency: str) -> str:
    """Create a batch at a moment at which others do."""
    spool = Spool(root)
    time.sleep(max(0, moment - time.time()))
    asked = Asked(input_file_id=upload, endpoint="", completion_window="24h")
    return submitted.create(spool, store.content(spool, upload), "b", asked, idempotency, NOW).id


def test_of_processes_that_create_at_once_with_one_idempotency_key_one_does_and_all_are_told_of_its_batch(
    pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    spool = Spool(tmp_path)
    spool.inbox.mkdir()
    store.recover(spool)
    submitted.recover(spool)
    with store.begin(spool, ".jsonl") as sent:
        sent.write(CONTENT)
        upload = sent.keep("b.jsonl", "batch", None, "", NOW).id
    at_once = 2 * (os.cpu_count() or 1)
    for key in map(str, range(20)):
        moment = time.time() + 0.02
        told = [pool.submit(created_at, tmp_path, moment, upload, key) for _ in range(at_once)]
        assert len({one.result() for one in told}) == 1
    assert len(submitted.all_of(spool)) == 20
    assert len(list(spool.inbox.glob("*.jsonl"))) == 20


# -- would it notice?


def names_an_upload_before_it_is_whole() -> None:
    def keep(
        self: store.Upload, filename: str, purpose: str, expires_at: int | None, key: str, now: float
    ) -> StoredFile:
        kept = StoredFile(
            folders.new_id("file-", now),
            self.size,
            self.sha256(),
            filename,
            purpose,
            int(now),
            expires_at,
            key,
            self._suffix,
        )
        self._folder.name(self._spool.files / kept.id)
        files.write_whole(Stored(self._spool.files / kept.id).record, store.dumps(store.asdict(kept)))
        return kept

    store.Upload.keep = keep  # type: ignore[method-assign]


def forgets_what_a_creation_was_called() -> None:
    submitted._named = lambda spool, idempotency: None


def copies_into_the_inbox() -> None:
    def moved(place: Path, target: Path) -> bool:
        if not place.exists():
            return False
        with files.Writer(target, fresh=True) as copy:
            copy.write(place.read_bytes())
        files.remove(place)
        return True

    passage._moved = moved


def leaves_what_is_pending() -> None:
    name, submit = folders.Hidden.name, Passage.submit
    new: set[Path] = set()

    def naming(self: folders.Hidden, target: Path) -> None:
        name(self, target)
        new.add(target)

    def only_at_once(self: Passage) -> None:
        if self.folder.dir in new:
            submit(self)

    folders.Hidden.name = naming  # type: ignore[method-assign]
    Passage.submit = only_at_once  # type: ignore[method-assign]


def deletes_file_by_file() -> None:
    def discard(folder: Path) -> bool:
        if not folder.exists():
            return False
        shutil.rmtree(folder)
        return True

    folders.discard = discard


def accepts_what_it_could_not_confirm() -> None:
    move = files.move

    def moving(source: Path, target: Path) -> None:
        if not target.name.startswith(NEW):
            move(source, target)

    files.move = moving


@pytest.mark.parametrize(
    ("sabotage", "words"),
    [
        (names_an_upload_before_it_is_whole, "half an upload under its name"),
        (forgets_what_a_creation_was_called, "one creation is two batches"),
        (copies_into_the_inbox, "is in ['pending', 'inbox']"),
        (leaves_what_is_pending, "should be"),
        (deletes_file_by_file, "half an upload under its name"),
    ],
)
def test_one_that_is_wrong_only_when_killed_is_found_out(
    pool: ProcessPoolExecutor, tmp_path: Path, sabotage: Callable[[], None], words: str
) -> None:
    root = new_spool(tmp_path / "unharmed")
    assert pool.submit(played, root, CREATING, None, sabotage).result().status == 0
    assert wrong_at_the_end(root, CREATING, taken=False) == []
    operations = unharmed(pool, tmp_path / "right", CREATING)
    found = problems(each(pool, tmp_path / "struck", CREATING, [(strike,) for strike in kills(operations)], sabotage))
    assert any(words in problem for problem in found), found


def test_one_that_is_wrong_only_when_the_disk_fails_is_found_out(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    steps = ("upload", "create")
    strikes = refusals(unharmed(pool, tmp_path / "unharmed", steps))
    places = (tmp_path / str(n) for n in itertools.count())
    rest = (itertools.repeat(steps), strikes, itertools.repeat(accepts_what_it_could_not_confirm))
    found = [problem for _, problems in pool.map(given_up, places, *rest, chunksize=8) for problem in problems]
    assert any("the client was told of" in problem for problem in found), found
