"""The verbs of the command line that hand work over and ask for it, as their users type them."""

from __future__ import annotations

import gzip
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from running import Daemon, batch_of, eventually

from inbox_daemon import cli
from inbox_daemon.cli import show
from inbox_daemon.cli.given import folder_of
from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import Published, Spool
from inbox_daemon.spool import complete, drop, files, proof, published

Start = Callable[..., Daemon]
Answer = tuple[int, str]
REQUIRED = {"INBOX_DAEMON_INBOX__REQUIRE_SIDECAR": "true"}


def run(spool: Path, *arguments: object) -> Answer:
    """Return a verb's exit status and all that it printed."""
    command = [sys.executable, "-m", "inbox_daemon", *map(str, arguments), "--spool", str(spool)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


def file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def empty_spool(root: Path) -> Spool:
    spool = Spool(root)
    for folder in (spool.inbox, spool.outbox, spool.daemons):
        folder.mkdir(parents=True)
    return spool


VERBS = {"run", "submit", "status", "top", "check", "verify", "selftest", "tune"}
VERBS |= {"cancel", "pause", "resume", "priority", "list", "results", "merge", "delete", "logs"}
OF_A_DAEMON = {"inbox_daemon.daemon", "inbox_daemon.engine.local", "watchdog", "prometheus_client"}


def test_help_names_every_verb_and_each_verb_has_help_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in (None, *VERBS):
        with pytest.raises(SystemExit) as ended:
            cli.main([verb, "--help"] if verb else ["--help"])
        told = capsys.readouterr().out
        assert ended.value.code == 0
        assert f"usage: inbox-daemon {verb} " in told if verb else set(told.split()) >= VERBS


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["top", "--once"]], ids=" ".join)
def test_who_looks_does_not_load_what_only_a_daemon_needs(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "inbox_daemon", *arguments, "--spool", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "inbox_daemon.spool.published" in loaded
    assert not loaded & OF_A_DAEMON


def test_a_file_whose_last_line_is_cut_is_run_when_it_is_submitted(start_daemon: Start, tmp_path: Path) -> None:
    daemon = start_daemon()
    status, said = run(daemon.spool, "submit", file(tmp_path / "b.jsonl", batch_of(3) + b'{"custom_id":'), "--wait")
    assert "1 of 4 lines are faulty; the others run" in said
    assert (status, daemon.status("b")["request_counts"]) == (3, {"total": 4, "completed": 3, "failed": 1})
    assert list(daemon.inbox.iterdir()) == []


def test_what_is_submitted_needs_no_sidecar_of_its_senders(start_daemon: Start, tmp_path: Path) -> None:
    daemon = start_daemon(environment=REQUIRED)
    assert run(daemon.spool, "submit", file(tmp_path / "b.jsonl", batch_of(3)), "--wait")[0] == 0
    status, said = run(daemon.spool, "submit", str(tmp_path / "b.jsonl"), "--wait")
    assert status == 1
    assert "b is of the same bytes" in said
    assert list(daemon.inbox.iterdir()) == []


def test_a_file_that_is_claimed_before_it_is_said_to_be_complete_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = empty_spool(tmp_path / "spool")
    opened = os.open

    def claimed(path: Path, *how: int) -> int:
        if Path(path).suffix == ".done":
            Path(path).with_suffix("").unlink()
        return opened(path, *how)

    monkeypatch.setattr(os, "open", claimed)
    assert drop.drop(spool, file(tmp_path / "b.jsonl", batch_of(1))).file == "b.jsonl"
    assert list(spool.inbox.iterdir()) == []


def test_what_is_submitted_is_believed_to_be_complete(tmp_path: Path) -> None:
    spool = empty_spool(tmp_path / "spool")
    drop.drop(spool, file(tmp_path / "b.jsonl", batch_of(1)))
    assert complete.vouching_for(spool.inbox / "b.jsonl") == [spool.inbox / "b.jsonl.done"]


def test_what_is_submitted_is_on_the_disk_before_it_shows_and_shows_durably_before_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, seen = empty_spool(tmp_path / "spool"), []
    for name in ("sync", "sync_dir"):
        done = getattr(files, name)

        def noted(*arguments: object, name: str = name, done: Callable[..., None] = done) -> None:
            seen.append((name, sorted(path.name for path in spool.inbox.glob("[!.]*"))))
            done(*arguments)

        monkeypatch.setattr(files, name, noted)
    drop.drop(spool, file(tmp_path / "b.jsonl", batch_of(1)))
    assert seen[:2] == [("sync", []), ("sync_dir", ["b.jsonl", "b.jsonl.done"])]


@pytest.mark.parametrize("laid", ["b.jsonl.done", ".17.jsonl", ".b.pause.17"])
def test_a_link_that_somebody_laid_in_the_inbox_leads_nowhere(
    laid: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may drop files may lay links as well, and root submits what a nightly job made."""
    spool, victim = empty_spool(tmp_path / "spool"), tmp_path / "victim"
    (spool.inbox / laid).symlink_to(victim)
    monkeypatch.setattr(time, "time_ns", lambda: 17)
    path = file(tmp_path / "b.jsonl", batch_of(1))
    for attempt in (lambda: drop.drop(spool, path), lambda: drop.drop_control(spool, "b", "pause")):
        with suppress(FileExistsError):
            attempt()
        assert not victim.exists()
    victim.write_text("mine")
    stat = victim.stat()
    for attempt in (lambda: drop.drop(spool, path), lambda: drop.drop_control(spool, "b", "pause")):
        with suppress(FileExistsError):
            attempt()
        assert victim.read_text() == "mine"
        assert victim.stat() == stat, "not even its times"


@pytest.mark.parametrize("taken", ["outbox/b/", "inbox/b.jsonl.gz", "inbox/b.jsonl.sha256"])
def test_what_is_submitted_takes_no_name_that_anything_has(taken: str, tmp_path: Path) -> None:
    spool = empty_spool(tmp_path / "spool")
    path = spool.root / taken
    if taken.endswith("/"):
        path.mkdir()
    else:
        path.touch()
    assert drop.drop(spool, file(tmp_path / "b.jsonl", batch_of(1))).file == "b.2.jsonl"
    assert {path.name for path in spool.inbox.glob("b.2*")} == {"b.2.jsonl", "b.2.jsonl.done"}


def test_who_submits_two_files_of_one_name_is_told_each_ones_own_name_and_waits_for_both(
    start_daemon: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = start_daemon()
    dropped = drop.drop_all
    # As where the first is claimed and has no name yet: its name looks free.
    monkeypatch.setattr(
        drop, "drop_all", lambda spool, paths: (replace(one, file="x.jsonl") for one in dropped(spool, paths))
    )
    paths = []
    for folder, content in (("r1", batch_of(3)), ("r2", batch_of(3, "second") + b"faulty\n")):
        (tmp_path / folder).mkdir()
        paths.append(str(file(tmp_path / folder / "x.jsonl", content)))
    assert cli.main(["submit", *paths, "--wait", "--spool", str(daemon.spool)]) == 3
    assert capsys.readouterr().out.splitlines()[:2] == ["x", "x.2"]
    assert [daemon.status(name)["request_counts"]["failed"] for name in ("x", "x.2")] == [0, 1]


@pytest.mark.slow
def test_of_a_file_that_no_daemon_has_taken_submit_says_where_it_lies_and_no_name(tmp_path: Path) -> None:
    spool = empty_spool(tmp_path / "spool")
    status, said = run(spool.root, "submit", file(tmp_path / "b.jsonl", batch_of(1)))
    assert status == 0
    assert said.startswith(f"{spool.inbox}/b.jsonl: not taken yet: no daemon runs on this spool")
    status, said = run(spool.root, "submit", str(tmp_path / "b.jsonl"))
    assert (status, said.split(": ", 1)[1]) == (
        1,
        "b is of the same bytes, so it is not submitted; --again has it run\n",
    )
    assert run(spool.root, "submit", str(tmp_path / "b.jsonl"), "--again")[0] == 0
    assert {path.name for path in spool.inbox.glob("*.jsonl")} == {"b.jsonl", "b.2.jsonl"}


def first_line_of_watching(spool: Path, name: str) -> str:
    command = [sys.executable, "-m", "inbox_daemon", "status", name, "--watch", "--spool", str(spool)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        line = watching.stdout.readline()
        watching.kill()
    return line


def test_who_waits_is_told_why_the_file_is_not_taken(start_daemon: Start) -> None:
    daemon = start_daemon(environment=REQUIRED)
    daemon.drop("b.jsonl", batch_of(3))
    eventually(lambda: published.waiting(Spool(daemon.spool)))
    assert "b: not taken yet: waiting for its sidecar" in first_line_of_watching(daemon.spool, "b")


def test_who_waits_is_told_that_no_daemon_runs(tmp_path: Path) -> None:
    spool = empty_spool(tmp_path / "spool")
    assert "b: not taken yet: no daemon runs on this spool" in first_line_of_watching(spool.root, "b")


def test_who_cancels_a_file_that_is_not_taken_is_told_why_it_waits_and_what_to_remove(start_daemon: Start) -> None:
    daemon = start_daemon()
    cut = daemon.drop("t.jsonl", batch_of(3) + b'{"custom_id":')
    eventually(lambda: "middle of a line" in "".join(published.waiting(Spool(daemon.spool)).values()))
    status, said = run(daemon.spool, "cancel", "t")
    said = " ".join(said.split())
    assert said.startswith(
        "t: still in the inbox, not taken yet: waiting for the rest: it ends in the middle of a line"
    )
    assert (status, said.split(": rm ")[1]) == (1, str(cut))
    assert [path.name for path in daemon.inbox.iterdir()] == ["t.jsonl"]


def test_who_cancels_a_file_that_no_daemon_takes_is_told_so_and_its_sidecar_named(tmp_path: Path) -> None:
    spool = empty_spool(tmp_path / "spool")
    drop.drop(spool, file(tmp_path / "t.jsonl", batch_of(1)))
    status, said = run(spool.root, "cancel", "t")
    said = " ".join(said.split())
    assert (status, "no daemon runs on this spool" in said) == (1, True)
    assert said.endswith(f": rm {spool.inbox}/t.jsonl {spool.inbox}/t.jsonl.done")


@pytest.mark.slow
def test_a_pause_of_a_file_that_is_not_taken_stays_until_it_is_and_a_verb_means_the_batch_in_work_before_it(
    start_daemon: Start,
) -> None:
    daemon = start_daemon()
    daemon.drop("t.jsonl", (whole_file := batch_of(300)) + b'{"custom_id":')
    eventually(lambda: published.waiting(Spool(daemon.spool)).get("t.jsonl", "").count("middle of a line"))
    status, said = run(daemon.spool, "pause", "t")
    assert (status, "pause will be taken with it" in " ".join(said.split())) == (0, True)
    daemon.drop("t.jsonl", whole_file)
    eventually(lambda: daemon.status("t").get("paused"))
    assert not list(daemon.inbox.iterdir())
    daemon.drop("t.jsonl", batch_of(3) + b'{"custom_id":')
    eventually(lambda: published.waiting(Spool(daemon.spool)).get("t.jsonl", "").count("middle of a line"))
    assert run(daemon.spool, "cancel", "t") == (0, "t: cancel taken\n")
    assert daemon.finished("t")["status"] == "cancelled"
    status, said = run(daemon.spool, "pause", "t")  # the batch has ended
    assert (status, "pause will be taken with it" in " ".join(said.split())) == (0, True)
    assert sorted(path.name for path in daemon.inbox.iterdir()) == ["t.jsonl", "t.pause"]


def test_a_batch_is_a_folder_wherever_it_lies_or_where_there_is_none_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "copied").mkdir()
    spool = Spool(tmp_path / "spool")
    asked = [folder_of(given, lambda: spool).dir for given in ("copied", "copied/", "elsewhere/b", "b")]
    assert asked == [Path("copied"), Path("copied"), Path("elsewhere/b"), spool.outbox / "b"]


def test_a_file_that_waits_for_a_slot_says_so(start_daemon: Start) -> None:
    daemon = start_daemon(environment={"INBOX_DAEMON_INBOX__MAX_CLAIMED": "1", "INBOX_DAEMON_ENGINE__NULL__RATE": "1"})
    for name in ("one", "two"):
        daemon.drop(f"{name}.jsonl", batch_of(100, name))
        (daemon.inbox / f"{name}.jsonl.done").touch()
    eventually(lambda: "max_claimed" in "".join(published.waiting(Spool(daemon.spool)).values()))
    [name] = {"one", "two"} - {daemon.status("one").get("name"), daemon.status("two").get("name")}
    said = f"{name}: in the inbox, not taken yet: waiting for a batch to end (inbox.max_claimed)\n"
    assert run(daemon.spool, "status", name) == (0, said)


def test_of_many_files_that_wait_for_the_same_some_are_named() -> None:
    many = dict.fromkeys((f"{number:03d}.jsonl" for number in range(100)), "still settling")
    with show.console.capture() as said:
        show.console.print(show.waiting(many | {"zzz.jsonl": "waiting for its sidecar"}))
    lines = said.get().splitlines()
    assert len(lines) == 12
    assert lines[-2:] == ["… and 90 more: still settling", "'zzz.jsonl': waiting for its sidecar"]


def test_who_may_not_read_a_spool_is_told_how_to(tmp_path: Path) -> None:
    spool = empty_spool(tmp_path / "spool")
    spool.outbox.chmod(0)
    me = os.geteuid()
    os.seteuid(me or 65534)  # root may read everything
    try:
        with pytest.raises(SpoolError, match="usermod -aG inbox-submit"):
            published.statuses(spool)
    finally:
        os.seteuid(me)
        spool.outbox.chmod(0o700)


def test_a_link_is_checked_and_submitted_as_what_it_leads_to(tmp_path: Path) -> None:
    spool = empty_spool(tmp_path / "spool")
    link = tmp_path / "link.jsonl"
    link.symlink_to(file(tmp_path / "target.jsonl", batch_of(2)))
    status, said = run(spool.root, "check", link, "--form")
    assert (status, said) == (0, f"{link}: 2 of 2 requests can run\n")
    assert run(spool.root, "submit", link)[0] == 0
    assert (spool.inbox / "link.jsonl").read_bytes() == batch_of(2)
    assert not (spool.inbox / "link.jsonl").is_symlink()


@pytest.mark.parametrize("number", ["1000000000", "-1000000000", "10000000000", "1.5", "1_0", "ten"])
def test_a_priority_that_the_daemon_would_throw_away_is_wrong_usage(
    number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["priority", "b", number])
    assert ended.value.code == 2
    assert f"a whole number from -999,999,999 to 999,999,999, not '{number}'" in capsys.readouterr().err


def test_of_several_files_all_are_submitted_or_none_and_what_is_submitted_is_waited_for(
    start_daemon: Start, tmp_path: Path
) -> None:
    daemon = start_daemon()
    good, other, bad = (tmp_path / f"{name}.jsonl" for name in ("good", "other", "bad"))
    files = [file(good, batch_of(3)), file(bad, b"{\n"), file(other, batch_of(3, "o")), tmp_path / "nowhere.jsonl"]
    status, said = run(daemon.spool, "submit", *files, "--wait")
    assert (status, said.splitlines()[-1]) == (
        1,
        "nothing was submitted: 2 of 4 cannot be; --keep-going submits the others",
    )
    assert f"{tmp_path}/nowhere.jsonl: not submitted: there is no such file" in said
    assert list(daemon.inbox.iterdir()) == []
    assert not daemon.outbox("good").exists()
    assert run(daemon.spool, "submit", *files, "--wait", "--keep-going")[0] == 1
    assert [daemon.status(name)["status"] for name in ("good", "other")] == ["completed", "completed"]
    status, said = run(daemon.spool, "submit", good, good, "--again")
    assert (status, "not submitted: " in said, "is the same file" in said) == (1, True, True)


def test_where_one_of_several_files_cannot_be_copied_in_none_is_dropped(tmp_path: Path) -> None:
    spool = empty_spool(tmp_path / "spool")
    good = file(tmp_path / "good.jsonl", batch_of(3))
    with pytest.raises(FileNotFoundError):
        list(drop.drop_all(spool, [(good, good.name), (tmp_path / "nowhere.jsonl", "nowhere.jsonl")]))
    assert list(spool.inbox.iterdir()) == []


def test_who_stops_waiting_is_told_that_the_batches_go_on_and_how_to_look_again(
    start_daemon: Start, tmp_path: Path
) -> None:
    daemon = start_daemon(environment={"INBOX_DAEMON_ENGINE__NULL__RATE": "1"})
    path = file(tmp_path / "b one.jsonl", batch_of(300))
    command = ["env", "--default-signal=INT", sys.executable, "-m", "inbox_daemon", "submit", str(path), "--wait"]
    command += ["--spool", str(daemon.spool)]  # a shell has what it starts in the background ignore SIGINT
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "b one\n"
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate(timeout=30)
    assert waiting.returncode == 130
    assert " ".join(said.split()) == (
        "b one goes on without you; look again: inbox-daemon status 'b one' --watch; "
        "end it: inbox-daemon cancel 'b one'"
    )
    assert daemon.status("b one")["status"] != "cancelled"


def test_what_comes_on_stdin_is_checked_and_submitted_like_a_file(start_daemon: Start, tmp_path: Path) -> None:
    daemon = start_daemon()

    def piped(content: bytes, *words: str) -> Answer:
        command = [sys.executable, "-m", "inbox_daemon", *words, "--spool", str(daemon.spool)]
        done = subprocess.run(command, input=content, capture_output=True, check=False, timeout=60)
        return done.returncode, (done.stdout + done.stderr).decode()

    assert piped(batch_of(3), "check", "-", "--form") == (0, "stdin: 3 of 3 requests can run\n")
    status, said = piped(b"{\n" + batch_of(1), "check", "-")
    assert (status, said.splitlines()[0].startswith("stdin:1: invalid_json: ")) == (1, True)
    packed = gzip.compress(batch_of(3))
    assert piped(packed, "submit", "-", "--name", "mine.jsonl.gz", "--wait")[0] == 0
    assert (daemon.status("mine")["input_file_id"], daemon.status("mine")["status"]) == ("mine.jsonl.gz", "completed")
    assert piped(batch_of(3), "submit", "-") == (
        1,
        "inbox-daemon: what comes on stdin needs a name: --name NAME\n",
    )
    assert "not a path" in piped(batch_of(3), "submit", "-", "--name", "../work")[1]


def test_of_several_batches_the_worst_end_counts(start_daemon: Start, tmp_path: Path) -> None:
    daemon = start_daemon(environment={"INBOX_DAEMON_INBOX__MAX_LINES": "3"})
    failing = file(tmp_path / "failing.jsonl", batch_of(4))
    faulty = file(tmp_path / "faulty.jsonl", batch_of(2) + b"one\n")
    assert run(daemon.spool, "submit", failing, faulty, "--wait")[0] == 1
    assert [daemon.status(name)["status"] for name in ("failing", "faulty")] == ["failed", "completed"]


@pytest.mark.parametrize(
    "receipt",
    [b"", b"{", b"[]", b'{"input":{}}', b'{"input":{"requests":"3","sha256":""},"answers":3,"errors":0,"files":{}}'],
)
def test_a_damaged_receipt_proves_nothing_and_is_named(receipt: bytes, tmp_path: Path) -> None:
    path = file(tmp_path / "receipt.json", receipt)
    with pytest.raises(SpoolError, match=f"{re.escape(str(path))}: damaged, or no receipt of ours"):
        proof.verify(Published(tmp_path))


def test_a_reader_who_has_seen_enough_hears_no_complaint(tmp_path: Path) -> None:
    spool = empty_spool(tmp_path / "spool")
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "inbox_daemon", "status", "--json", "--spool", str(spool.root)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give the inbox away")
def test_what_is_handed_over_is_readable_for_a_daemon_of_another_user_whatever_the_umask(tmp_path: Path) -> None:
    spool = empty_spool(tmp_path / "spool")
    os.chown(spool.inbox, 65534, -1)
    before = os.umask(0o077)
    try:
        drop.drop(spool, file(tmp_path / "b.jsonl", batch_of(1)))
        drop.drop_control(spool, "b", "priority", "10")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in spool.inbox.iterdir()}
    assert (modes["b.jsonl"], modes["b.priority"]) == (0o640, 0o640)


def test_what_is_handed_over_stays_private_where_the_daemon_is_the_same_user(tmp_path: Path) -> None:
    spool = empty_spool(tmp_path / "spool")
    before = os.umask(0o077)
    try:
        drop.drop(spool, file(tmp_path / "b.jsonl", batch_of(1)))
    finally:
        os.umask(before)
    assert (spool.inbox / "b.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("model", ["./nosuch", "/nosuch/model", "../nosuch"])
def test_a_model_folder_that_is_not_there_is_a_wrong_setting(tmp_path: Path, model: str) -> None:
    status, said = run(tmp_path / "spool", "run", "--model", model)
    assert status == 78 and f"engine.model = {model!r}: there is nothing of that name" in said
    assert not (tmp_path / "spool").exists()
