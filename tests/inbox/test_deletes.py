"""NAME.delete: what it deletes, when, and whom it means."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from passes import Passes
from running import batch_of

from inbox_daemon import cli
from inbox_daemon.batch import face
from inbox_daemon.cli import control
from inbox_daemon.cli import delete as verb
from inbox_daemon.ended import deleting
from inbox_daemon.engine.null import NullEngine
from inbox_daemon.inbox import obeying
from inbox_daemon.layout import Published, Spool
from inbox_daemon.spool import proof


def ended(passes: Passes, *names: str) -> list[str]:
    """Have batches run to their end, and return their ids."""
    for name in names:
        passes.drop(f"{name}.jsonl", batch_of(3, name))
        passes.until((passes.folder(name) / "receipt.json").exists)
    passes.until(lambda: not list(passes.inbox.parent.glob("work/*")))
    return [passes.status(name)["id"] for name in names]


def say(passes: Passes, file: str, content: str = "", until_taken: bool = True) -> None:
    path = passes.inbox / file
    (passes.inbox / ".arriving").write_text(content)
    (passes.inbox / ".arriving").rename(path)
    passes.let_the_clock_tick(path)
    passes.daemon._arriving._hint()
    if until_taken:
        passes.until(lambda: not path.exists(), within=5)


@pytest.mark.parametrize("file", ["b.delete", "b.jsonl.delete", "ID.delete"])
def test_an_empty_one_deletes_the_whole_folder_and_no_other(
    file: str, passes: Passes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "inbox_daemon")
    _, id, _ = ended(passes, "a", "b", "c")
    (passes.folder("b") / "parts" / "mine").touch()
    say(passes, file.replace("ID", id))
    assert sorted(path.name for path in passes.folder("b").parent.iterdir()) == ["a", "c"]
    passes.until(lambda: not list(passes.inbox.parent.glob("work/*")), within=2)
    assert f"b: deleted, as {file.replace('ID', id)} says" in caplog.text


def test_one_with_names_deletes_these_files_and_what_is_gone_is_gone(passes: Passes) -> None:
    ended(passes, "b")
    say(passes, "b.delete", "input.jsonl\r\n\nretry.jsonl\n")
    left = sorted(path.name for path in passes.folder("b").iterdir())
    assert left == ["errors.jsonl", "parts", "receipt.json", "results.jsonl", "status.json"]
    assert proof.verify(Published(passes.folder("b"))).problems == []
    say(passes, "b.delete", "results.jsonl")
    assert not (passes.folder("b") / "results.jsonl").exists()


@pytest.mark.parametrize(
    "name", ["receipt.json", "status.json", "parts", "../a/results.jsonl", "notes.txt", "\x1b[2J", " "]
)
def test_one_that_names_anything_else_deletes_nothing_and_the_log_says_why(
    name: str, passes: Passes, caplog: pytest.LogCaptureFixture
) -> None:
    ended(passes, "b")
    (passes.folder("b") / "notes.txt").write_text("mine")
    before = sorted(path.name for path in passes.folder("b").rglob("*"))
    say(passes, "b.delete", f"results.jsonl\n{name}\n" if name.strip() else f"{name}\n")
    assert sorted(path.name for path in passes.folder("b").rglob("*")) == before
    why = "is no file of a batch that goes without the rest of its folder" if name.strip() else "names of files"
    assert "b.delete thrown away: " in caplog.text and why in caplog.text and "\x1b" not in caplog.text


def test_what_has_not_ended_is_not_deleted_and_the_log_says_why(
    passes: Passes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(NullEngine, "room", lambda engine: 0)
    monkeypatch.setattr(face, "_STATUS_EVERY", 0.0)
    passes.drop("b.jsonl", batch_of(5))
    passes.until(passes.is_now("b", "in_progress"))
    say(passes, "b.delete")
    say(passes, f"{passes.status('b')['id']}.delete")
    assert caplog.text.count("has not ended; cancel it first") == 2
    passes.drop("half.jsonl", batch_of(1)[:-9])
    passes.look()
    say(passes, "half.delete")
    assert "half.delete thrown away: half waits in the inbox, and has not ended" in caplog.text
    say(passes, "nobody.delete")
    assert "nobody.delete thrown away: no batch called nobody is in the outbox" in caplog.text
    assert passes.is_now("b", "in_progress")()


@pytest.mark.parametrize("later", [True, False])
def test_of_two_batches_of_a_name_it_means_the_one_that_it_came_for(
    later: bool, passes: Passes, caplog: pytest.LogCaptureFixture
) -> None:
    [first] = ended(passes, "b")
    if later:
        say(passes, "b.delete", until_taken=False)
    (passes.inbox / "b.jsonl").write_bytes(batch_of(4, "second"))
    passes.let_the_clock_tick(passes.inbox / "b.jsonl")
    if not later:
        say(passes, "b.delete")

    def there() -> list[str]:
        return [passes.status(path.parent.name)["id"] for path in passes.inbox.parent.glob("outbox/*/receipt.json")]

    passes.until(lambda: not list(passes.inbox.glob("b*")) and len(set(there()) - {first}) == 1, within=5)
    assert (first not in there()) is later
    assert ("b.delete thrown away: b waits in the inbox, and has not ended" in caplog.text) is not later


def test_one_for_nobody_means_no_batch_that_comes_after_it_however_soon_that_ends(
    passes: Passes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(obeying, "_SLICE", 0.0)  # one control file in a pass
    for file in ("a.delete", "b.delete"):
        say(passes, file, until_taken=False)
    passes.drop("b.jsonl", batch_of(3))
    passes.until(lambda: not list(passes.inbox.glob("[ab]*")), within=5)
    passes.until((passes.folder("b") / "receipt.json").exists)
    assert "b.delete thrown away: no batch called b is in the outbox" in caplog.text


def test_whoever_has_the_name_by_then_is_not_deleted(passes: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(passes, "b")
    monkeypatch.setattr(deleting.Deleting, "_lies_still", lambda self, path, seconds: False)
    say(passes, "b.delete", until_taken=False)
    passes.until(lambda: passes.daemon._deleting.waits)
    passes.folder("b").rename(passes.folder("kept"))
    ended(passes, "b")
    monkeypatch.undo()
    passes.until(lambda: not (passes.inbox / "b.delete").exists(), within=5)
    assert (passes.folder("b") / "results.jsonl").exists()


def test_one_that_is_written_to_or_has_only_just_come_is_not_carried_out_yet(passes: Passes) -> None:
    ended(passes, "b")
    settings = passes.daemon.settings
    settings.now = replace(settings.now, inbox=replace(settings.now.inbox, settle=0.2, settle_unproven=0.2))
    fd = os.open(passes.inbox / "b.delete", os.O_WRONLY | os.O_CREAT)  # as the shell does, and writes after it
    passes.look()
    for _ in range(20):
        passes.look()
    os.write(fd, b"input.jsonl\n")
    os.close(fd)
    passes.until(lambda: not (passes.inbox / "b.delete").exists(), within=5)
    assert (passes.folder("b") / "results.jsonl").exists()
    assert not (passes.folder("b") / "input.jsonl").exists()


def test_what_the_disk_refuses_is_said_and_tried_again(
    passes: Passes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ended(passes, "b")
    monkeypatch.setattr(deleting, "_AGAIN", 0.0)
    remove, refusals = os.unlink, [None]

    def refused(path: str, *, dir_fd: int | None = None) -> None:
        if path == "input.jsonl" and refusals:
            refusals.pop()
            raise OSError(5, "Input/output error", path)
        remove(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refused)
    say(passes, "b.delete", "input.jsonl")
    assert "b.delete cannot be carried out: input.jsonl: Input/output error; trying again" in caplog.text
    assert not (passes.folder("b") / "input.jsonl").exists()


def test_the_verb_has_the_daemon_do_it_where_the_outbox_is_not_its_own(
    passes: Passes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ended(passes, "b", "c")
    root = str(passes.inbox.parent)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    passes.daemon.step(0.0)  # says that it lives
    monkeypatch.setattr(verb.time, "sleep", lambda seconds: passes.look())
    assert cli.main(["delete", "b", "--yes", "--spool", root]) == 0
    assert "b: deleted by the daemon" in capfd.readouterr().out
    assert {path.name for path in Spool(Path(root)).outbox.iterdir()} == {"c"}
    monkeypatch.setattr(control, "_PATIENCE", 0.0)
    monkeypatch.setattr(deleting.Deleting, "look", lambda *_: False)
    assert cli.main(["delete", "c", "--yes", "--spool", root]) == 1
    assert ".delete is there, but no daemon has taken it yet" in capfd.readouterr().err
