"""Reading a batch from the command line: its answers as they come and at the end, all batches, retries merged."""

from __future__ import annotations

import csv
import gzip
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from running import Daemon, batch_of, custom_ids, eventually, jsonl, request

from inbox_daemon import cli
from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import Published, Spool
from inbox_daemon.request.line import MAX_CUSTOM_ID
from inbox_daemon.spool import deletion

Start = Callable[..., Daemon]
Shown = pytest.CaptureFixture[bytes]

IN_SMALL_PARTS = {
    "settings": "[results]\nseal_every = 20\nsync_after = 0.1\n",
    "environment": {"INBOX_DAEMON_ENGINE__NULL__RATE": "400"},
}
FAULTY = b'{"custom_id": "no url", "method": "POST"}\n'


def verb(shown: Shown, *words: object) -> tuple[int, list[dict[str, Any]], str]:
    """Run a verb that prints JSON lines: its exit status, the lines, and what it says on stderr."""
    code = cli.main([*map(str, words)])
    out, err = shown.readouterr()
    return code, [orjson.loads(line) for line in out.splitlines()], err.decode()


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Spool:
    """A spool with three batches that have ended: answers, two kinds of errors, and a file that is no batch."""
    folder = tmp_path_factory.mktemp("ended")
    inbox = folder / "spool" / "inbox"
    inbox.mkdir(parents=True)  # before the daemon, which ends when there is nothing to do
    (inbox / "b.jsonl").write_bytes(batch_of(5) + FAULTY + b"{\n" + FAULTY.replace(b"no", b"nor"))
    (inbox / "good.jsonl").write_bytes(batch_of(3, "g"))
    (inbox / "empty.jsonl").touch()
    daemon = Daemon(folder / "spool", folder / "log", arguments=["--drain"], ready=False)
    try:
        daemon.ended()
    finally:
        daemon.kill()
    return Spool(folder / "spool")


def test_an_ended_batchs_answers_and_errors_are_its_files_own(ended: Spool, capfdbinary: Shown) -> None:
    folder = Published(ended.outbox / "b")
    for words, path in (((), folder.results), (("--errors",), folder.errors)):
        assert cli.main(["results", "b", *words, "--spool", str(ended.root)]) == 0
        assert capfdbinary.readouterr() == (path.read_bytes(), b"")


def test_fields_become_a_table_whatever_is_in_them(ended: Spool, capfdbinary: Shown) -> None:
    fields = "custom_id,content,finish_reason,response.body.usage.total_tokens,response.body.choices.0.index,code,line"
    assert cli.main(["results", "b", "--csv", fields, "--spool", str(ended.root)]) == 0
    head, *rows = csv.reader(io.StringIO(capfdbinary.readouterr().out.decode()))
    assert head == fields.split(",")
    assert len(rows) == 5
    assert rows[0][0] == "r0"
    assert rows[0][1].startswith("null engine: ")
    assert rows[0][2:] == ["stop", rows[0][3], "0", "", ""]
    assert int(rows[0][3]) > 0
    assert (
        cli.main(["results", "b", "--errors", "--csv", "custom_id,code,line,message", "--spool", str(ended.root)]) == 0
    )
    _, *rows = csv.reader(io.StringIO(capfdbinary.readouterr().out.decode()))
    assert [row[1:3] for row in rows] == [["invalid_url", "6"], ["invalid_json", "7"], ["invalid_url", "8"]]
    with pytest.raises(SystemExit):
        cli.main(["results", "b", "--csv", "contents", "--spool", str(ended.root)])
    assert b"'contents' is none of custom_id, content" in capfdbinary.readouterr().err


def test_what_is_not_there_is_told_apart_from_what_is_not_taken(ended: Spool, capfdbinary: Shown) -> None:
    assert cli.main(["results", "nothing", "--spool", str(ended.root)]) == 4
    assert f"no batch called nothing in {ended.outbox}".encode() in capfdbinary.readouterr().err
    waiting = ended.inbox / "later.jsonl"
    waiting.touch()
    try:
        assert cli.main(["results", "later", "--spool", str(ended.root)]) == 4
        assert b"later: not taken yet" in capfdbinary.readouterr().err
    finally:
        waiting.unlink()
    assert cli.main(["results", "../work", "--spool", str(ended.root)]) == 1
    assert b"no batch can be called '../work'" in capfdbinary.readouterr().err


@pytest.mark.slow
def test_a_running_batch_is_followed_to_its_end_each_answer_once_though_parts_are_taken_away(
    start_daemon: Start, tmp_path: Path
) -> None:
    daemon = start_daemon(**IN_SMALL_PARTS)
    daemon.drop("b.jsonl", batch_of(900))
    parts = daemon.outbox("b") / "parts"
    eventually(lambda: parts.is_dir() and any(parts.iterdir()), what="a part")
    command = [sys.executable, "-m", "inbox_daemon", "results", "b", "--follow", "--spool", str(daemon.spool)]
    with (tmp_path / "out").open("wb") as out:
        follower = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE)
    eventually(lambda: (tmp_path / "out").read_bytes().count(b"\n") >= 60, what="answers while it runs")
    assert daemon.status("b")["status"] in ("validating", "in_progress"), "not ended; written once a second"
    for part in parts.iterdir():
        part.unlink()
    _, err = follower.communicate(timeout=60)
    assert (follower.returncode, err) == (0, b"")
    printed = custom_ids(tmp_path / "out")
    assert sorted(printed) == sorted(f"r{n}" for n in range(900))


def test_of_a_running_batch_the_answers_so_far_come_with_how_many_there_are_and_what_was_taken_away(
    start_daemon: Start, capfdbinary: Shown
) -> None:
    daemon = start_daemon(**IN_SMALL_PARTS)
    daemon.drop("b.jsonl", batch_of(10_000))
    parts = daemon.outbox("b") / "parts"
    eventually(lambda: parts.is_dir() and len(list(parts.iterdir())) > 3, what="parts")
    eventually(lambda: daemon.status("b")["status"] == "in_progress")  # which is written at most once a second
    (parts / "part-000002.jsonl").unlink()
    code, lines, err = verb(capfdbinary, "results", "b", "--spool", daemon.spool)
    assert code == 0
    assert 40 <= len(lines) < 10_000
    assert "b: part-000002.jsonl was taken away: its lines are missing here" in err
    assert "b: in_progress, " in err
    assert "of 10,000 done so far" in err


def test_a_link_in_place_of_a_part_is_not_followed(ended: Spool, tmp_path: Path, capfdbinary: Shown) -> None:
    spool = Spool(tmp_path / "spool")
    shutil.copytree(ended.root, spool.root)
    folder = Published(spool.outbox / "good")
    secret = tmp_path / "secret"
    shutil.copyfile(folder.results, secret)
    folder.results.unlink()
    folder.results.symlink_to(secret)
    for words in (["results", "good"], ["merge", "good", "good"]):
        assert cli.main([*words, "--spool", str(spool.root)]) == 1
        out, err = capfdbinary.readouterr()
        assert out == b""
        assert f"{folder.results}: a link, where a file of the daemon's should be".encode() in err


def test_who_has_read_enough_stops_it_without_a_word(ended: Spool) -> None:
    command = [sys.executable, "-m", "inbox_daemon", "results", "b", "--spool", str(ended.root)]
    read, write = os.pipe()
    os.close(read)
    ran = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (ran.returncode, ran.stderr) == (1, b"")


# -- all batches


def test_the_list_has_each_batchs_state_size_and_errors_by_code(ended: Spool, capfdbinary: Shown) -> None:
    code, found, _ = verb(capfdbinary, "list", "--json", "--spool", ended.root)
    assert code == 0
    by_name = {one["name"]: one for one in found}
    assert by_name.keys() == {"b", "good", "empty"}
    assert by_name["b"]["errors_by_code"] == {"invalid_url": 2, "invalid_json": 1}
    assert by_name["good"]["errors_by_code"] == {}
    assert (by_name["empty"]["state"], by_name["empty"]["errors_by_code"]) == ("failed", {"empty_file": 1})
    folder = ended.outbox / "b"
    assert by_name["b"]["bytes"] == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert by_name["b"]["ended_at"] >= by_name["b"]["created_at"]
    assert cli.main(["list", "--last", "1", "--spool", str(ended.root)]) == 0
    assert b"the last 1 of 3 batches; --all has the others" in capfdbinary.readouterr().out


# -- retries


@pytest.fixture(scope="module")
def retried(tmp_path_factory: pytest.TempPathFactory) -> Spool:
    """Three batches: one cancelled half way, its retry with one line that fails, and the retry's own."""
    folder = tmp_path_factory.mktemp("retried")
    daemon = Daemon(folder / "spool", folder / "log", environment={"INBOX_DAEMON_ENGINE__NULL__RATE": "50"})
    try:
        daemon.drop("first.jsonl", FAULTY + batch_of(200))
        eventually(lambda: daemon.done("first") >= 20)
        (daemon.inbox / "first.cancel").touch()
        daemon.finished("first")
        again = Published(daemon.outbox("first")).retry().read_bytes().splitlines(keepends=True)
        daemon.drop("second.jsonl", again[0].replace(b'"/v1/chat/completions"', b'"/nowhere"') + b"".join(again[1:]))
        daemon.finished("second")
        daemon.drop("third.jsonl", again[0])
        daemon.finished("third")
    finally:
        daemon.kill()
    return Spool(folder / "spool")


def test_a_batch_and_its_retries_become_one_in_the_first_files_order(
    retried: Spool, tmp_path: Path, capfdbinary: Shown
) -> None:
    names = [f"r{n}" for n in range(200)]
    code, lines, err = verb(capfdbinary, "merge", "first", "second", "third", "--spool", retried.root)
    assert (code, [line["custom_id"] for line in lines]) == (3, names)
    assert err.strip() == "201 requests = 200 answers + 1 errors"
    once, output = Published(retried.outbox / "first"), tmp_path / "merged"
    assert cli.main(["merge", "first", "second", "--output", str(output), "--spool", str(retried.root)]) == 3
    left = next(name for name in names if name not in custom_ids(once.results))
    assert custom_ids(output / "errors.jsonl") == ["no url", left]
    assert custom_ids(output / "results.jsonl") == [name for name in names if name != left]


def test_what_is_no_retry_of_a_batch_is_not_merged_with_it(retried: Spool, tmp_path: Path, capfdbinary: Shown) -> None:
    output = tmp_path / "merged"
    for words in (["second", "first"], ["first", "third", "second"]):
        assert cli.main(["merge", *words, "--output", str(output), "--spool", str(retried.root)]) == 1
        assert b"is no request that the batches before it left without an answer" in capfdbinary.readouterr().err
        assert not output.exists()
    assert cli.main(["merge", "first", "fourth", "--spool", str(retried.root)]) == 1
    assert b"fourth/receipt.json is not there" in capfdbinary.readouterr().err
    output.mkdir()
    assert cli.main(["merge", "first", "second", "--output", str(output), "--spool", str(retried.root)]) == 1
    assert f"{output}: File exists".encode() in capfdbinary.readouterr().err


def test_a_batch_with_a_line_missing_or_too_many_is_not_merged_as_if_it_were_whole(
    retried: Spool, tmp_path: Path, capfdbinary: Shown
) -> None:
    spool, output = copy_of(retried, tmp_path / "spool"), tmp_path / "merged"
    results = Published(spool.outbox / "first").results
    lines = results.read_bytes().splitlines(keepends=True)
    for damaged in (lines[:3] + lines[4:], lines[:-1], [*lines, lines[-1]]):
        results.write_bytes(b"".join(damaged))
        for words in ([], ["--output", str(output)]):
            assert cli.main(["merge", "first", "second", *words, "--spool", str(spool.root)]) == 1
            out, err = capfdbinary.readouterr()
            assert out == b""
            assert b"not every request has one line, so nothing is merged" in err
        assert not output.exists()


def test_the_longest_custom_id_that_is_taken_can_be_merged(start_daemon: Start, capfdbinary: Shown) -> None:
    daemon = start_daemon()
    long = "é" * MAX_CUSTOM_ID
    daemon.drop("a.jsonl", jsonl([request(long) | {"url": "/nowhere"}]))
    daemon.drop("again.jsonl", jsonl([request(long)]))
    assert daemon.finished("a")["request_counts"]["failed"] == 1
    daemon.finished("again")
    code, lines, _ = verb(capfdbinary, "merge", "a", "again", "--spool", daemon.spool)
    assert (code, [line["custom_id"] for line in lines]) == (0, [long])


# -- deleting


def copy_of(ended: Spool, root: Path) -> Spool:
    shutil.copytree(ended.root, root)
    return Spool(root)


def test_a_batch_that_has_ended_is_deleted_whole_and_no_other(
    ended: Spool, tmp_path: Path, capfdbinary: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, kept = copy_of(ended, tmp_path / "spool"), tmp_path / "kept"
    kept.mkdir()
    (kept / "mine").touch()
    (spool.outbox / "b" / "linked").symlink_to(kept)
    assert cli.main(["delete", "b", "empty", "--spool", str(spool.root)]) == 2
    assert b"nobody is there to be asked; --yes deletes without asking" in capfdbinary.readouterr().err
    monkeypatch.setattr(sys, "stdin", terminal("no"))
    assert cli.main(["delete", "b", "--spool", str(spool.root)]) == 1
    assert b"Delete it, for good? y/N nothing was deleted" in capfdbinary.readouterr().err
    assert (spool.outbox / "b").is_dir()
    monkeypatch.setattr(sys, "stdin", terminal("y"))
    assert cli.main(["delete", "b", "empty", "--spool", str(spool.root)]) == 0
    assert [path.name for path in spool.outbox.iterdir()] == ["good"]
    assert (kept / "mine").exists()
    assert cli.main(["delete", "b", "--yes", "--spool", str(spool.root)]) == 4


def terminal(answer: str) -> io.StringIO:
    said = io.StringIO(f"{answer}\n")
    said.isatty = lambda: True  # type: ignore[method-assign]
    return said


def test_what_has_not_ended_or_is_no_batchs_own_is_not_deleted(
    start_daemon: Start, tmp_path: Path, capfdbinary: Shown
) -> None:
    daemon = start_daemon(environment={"INBOX_DAEMON_ENGINE__NULL__RATE": "1"})
    spool = Spool(daemon.spool)
    daemon.drop("done.jsonl", b"")
    daemon.finished("done")
    daemon.drop("b.jsonl", batch_of(300))
    eventually(lambda: daemon.status("b").get("status") == "in_progress")
    shutil.copytree(spool.outbox / "done", spool.outbox / "copy")
    (spool.outbox / "link").symlink_to(spool.outbox / "done")
    for name, why in (
        ("b", "b is in_progress; cancel it first: inbox-daemon cancel b"),
        ("copy", "if it is a copy, remove it by hand"),
        ("link", "no folder of the daemon's; remove it as you made it"),
        ("../work", "no batch can be called '../work'"),
    ):
        assert cli.main(["delete", "done", name, "--yes", "--spool", str(spool.root)]) == 1
        assert why in " ".join(capfdbinary.readouterr().err.decode().split())
    assert {path.name for path in spool.outbox.iterdir()} == {"done", "b", "copy", "link"}


def test_a_batch_is_gone_for_others_at_once_and_what_a_kill_has_left_of_it_goes_with_the_next(
    ended: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: Shown
) -> None:
    spool = copy_of(ended, tmp_path / "spool")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        assert cli.main(["delete", "b", "--yes", "--spool", str(spool.root)]) == 130
    assert {one["name"] for one in verb(capfdbinary, "list", "--json", "--spool", spool.root)[1]} == {"good", "empty"}
    assert len([path for path in spool.outbox.iterdir() if path.name.startswith(".deleted-")]) == 1
    assert cli.main(["delete", "empty", "--yes", "--spool", str(spool.root)]) == 0
    assert [path.name for path in spool.outbox.iterdir()] == ["good"]


def test_another_batch_that_took_the_name_meanwhile_stays(ended: Spool, tmp_path: Path) -> None:
    spool = copy_of(ended, tmp_path / "spool")
    seen = deletion.over(spool, "b")
    assert seen is not None
    status = spool.batch("b").status
    status.write_bytes(orjson.dumps(orjson.loads(status.read_bytes()) | {"id": "batch_another"}))
    with pytest.raises(SpoolError, match="b is another batch by now, and stays"):
        deletion.delete(spool, seen)
    assert spool.batch("b").results.exists()


# -- proving


def test_several_batches_are_proven_by_name_or_folder_and_one_with_its_file_packed_or_not(
    start_daemon: Start, tmp_path: Path, capfdbinary: Shown
) -> None:
    daemon = start_daemon()
    content = batch_of(3)
    daemon.drop("packed.jsonl.gz", gzip.compress(content))
    daemon.drop("plain.jsonl", batch_of(3, "p"))
    for name in ("packed", "plain"):
        daemon.finished(name)
    shutil.copytree(daemon.outbox("plain"), tmp_path / "copied")
    spool, files = str(daemon.spool), {}
    for name, packed in (("as-it-was.jsonl.gz", gzip.compress(content)), ("unpacked.jsonl", content)):
        files[name] = tmp_path / name
        files[name].write_bytes(packed)
        assert cli.main(["verify", "packed", "--input", str(files[name]), "--spool", spool]) == 0
    files["unpacked.jsonl"].write_bytes(batch_of(4))
    assert cli.main(["verify", "packed", "--input", str(files["unpacked.jsonl"]), "--spool", spool]) == 1
    capfdbinary.readouterr()
    code, found, _ = verb(capfdbinary, "verify", "packed", tmp_path / "copied", "--json", "--spool", spool)
    assert (code, [one["problems"] for one in found]) == (0, [[], []])
    (tmp_path / "copied" / "results.jsonl").write_bytes(b"")
    assert cli.main(["verify", "packed", str(tmp_path / "copied"), "--spool", spool]) == 1
    assert capfdbinary.readouterr().out.decode().splitlines()[-1].endswith("does NOT hold")
