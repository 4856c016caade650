"""Every way in which files arrive, by the tools that users have: when a file is whole, and when it is not taken yet."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from running import Daemon, batch_of, custom_ids, error_of, eventually, jsonl, lines, request
from sshd import Sshd, cut, ended, serving

from inbox_daemon.config import Config
from inbox_daemon.layout import Published, Work
from inbox_daemon.request.reading import rules_of
from inbox_daemon.spool import files, ingest, proof

pytestmark = pytest.mark.upload

Start = Callable[..., Daemon]

# Uploads stop at the edges of blocks, all multiples of 512 bytes. With lines of the one width every such edge is the
# end of a line, and what has arrived looks whole; with the other none is, nor one byte before the end, in 2 MB.
ALWAYS_AT_A_LINES_END, NEVER_AT_A_LINES_END = 1024, 5013
MEGABYTE = 1 << 20
HALF_WAY = 200_000  # bytes
SLOW = {"scp": ["-l", "4000"], "rsync": ["--bwlimit=500"]}  # some 500 KB/s, in steps half a second apart
SLOWER = {"scp": ["-l", "1000"], "rsync": ["--bwlimit=125"]}  # there is time to interrupt these half way
RUNS_A_WHILE = {"INBOX_DAEMON_ENGINE__NULL__RATE": "400", "INBOX_DAEMON_ENGINE__IN_FLIGHT": "50"}


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with serving(tmp_path_factory.mktemp("sshd")) as server:
        yield server


def batch_of_width(width: int, size: int = MEGABYTE) -> bytes:
    """Return requests r0, r1, ... in lines of `width` bytes each, `size` bytes together, that hardly compress."""
    chance = random.Random(1)
    rows = []
    for i in range(size // width):
        room = width - len(jsonl([request(f"r{i}", "")]))
        rows.append(request(f"r{i}", chance.randbytes(room).hex()[:room]))
    return jsonl(rows)


def answered(daemon: Daemon, name: str, original: Path) -> None:
    """Wait for the batch's end: every request of the original has its answer, and the receipt says it was this file."""
    status = daemon.finished(name)
    assert status["status"] == "completed", status
    content = original.read_bytes()
    requests = gzip.decompress(content) if original.suffix == ".gz" else content
    expected = [orjson.loads(line)["custom_id"] for line in requests.splitlines()]
    assert custom_ids(daemon.outbox(name) / "results.jsonl") == expected
    assert lines(daemon.outbox(name) / "errors.jsonl") == []
    assert proof.verify(Published(daemon.outbox(name)), original).problems == []


def said(daemon: Daemon) -> dict[str, Any]:
    """Return what the daemon says of itself; {} until it has said something."""
    for path in (daemon.spool / "daemons").glob("[!.]*.json"):
        with suppress(FileNotFoundError):
            return dict(orjson.loads(path.read_bytes()))
    return {}


def keeps_waiting(daemon: Daemon, name: str, why: str) -> None:
    """Wait until the daemon has said for longer than any file needs to settle that this one waits, and why."""

    def said_at() -> float:
        view = said(daemon)
        assert not list(daemon.outbox("").iterdir()), "claimed"
        return float(view["at"]) if why in view.get("waiting", {}).get(name, "") else 0.0

    first = eventually(said_at, 30, f"{name} {why}; log:\n{daemon.text()}")
    eventually(lambda: said_at() > first + 0.9, 30, f"{name} {why}, still")


def inbox_daemon(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "inbox_daemon", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


# -- whole uploads


def test_a_file_sent_by_any_tool_becomes_a_batch_with_all_its_answers(
    start_daemon: Start, sshd: Sshd, tmp_path: Path
) -> None:
    daemon = start_daemon()
    rsyncs = ["rsync -a", "rsync -P", "rsync --delay-updates", "rsync --inplace", "rsync --append"]
    for tool in ("scp", "scp -O", "rsync", *rsyncs):
        original = tmp_path / f"{tool}.jsonl"
        original.write_bytes(batch_of(200))
        sshd.run(*tool.split(), original, sshd.at(daemon.inbox))
        answered(daemon, tool, original)


@pytest.mark.parametrize(
    ("hidden", "rename"),
    [(".b.jsonl", "rename"), ("b.jsonl.part", "rename -l")],  # -l: by link and unlink, as other clients have it done
)
def test_an_sftp_upload_under_another_name_is_taken_when_it_is_renamed(
    start_daemon: Start, sshd: Sshd, tmp_path: Path, hidden: str, rename: str
) -> None:
    daemon = start_daemon()
    original = tmp_path / "kept.jsonl"
    original.write_bytes(batch_of(200))
    commands = tmp_path / "commands"
    commands.write_text(f"put {original} {daemon.inbox}/{hidden}\n")
    sshd.run("sftp", "-b", commands, "box")
    daemon.drop("later.jsonl", batch_of(1))
    daemon.finished("later")
    assert [path.name for path in daemon.inbox.iterdir()] == [hidden]
    commands.write_text(f"cd {daemon.inbox}\n{rename} {hidden} b.jsonl\n")
    sshd.run("sftp", "-b", commands, "box")
    answered(daemon, "b", original)


def test_a_local_file_becomes_a_batch_by_any_command(start_daemon: Start, tmp_path: Path) -> None:
    daemon = start_daemon()
    original, given = tmp_path / "kept.jsonl", tmp_path / "given.jsonl"
    for command in ("mv", "cp", "cp -p", "ln", "install -m 600"):
        for path in (original, given):
            path.write_bytes(batch_of(200))
        subprocess.run([*command.split(), given, daemon.inbox / f"{command}.jsonl"], check=True)
        answered(daemon, command, original)


@pytest.mark.parametrize(("tool", "year"), [("scp -p", 2020), ("rsync -a", 2020), ("rsync -a", 2099)])
def test_a_file_with_another_years_date_settles_from_when_it_arrived(
    start_daemon: Start, sshd: Sshd, tmp_path: Path, tool: str, year: int
) -> None:
    settle = 1.0
    daemon = start_daemon(environment={"INBOX_DAEMON_INBOX__SETTLE": str(settle)})
    original = tmp_path / "b.jsonl"
    original.write_bytes(batch_of(20))
    dated = time.mktime((year, 1, 1, 0, 0, 0, 0, 0, -1))
    os.utime(original, (dated, dated))
    daemon.signal(signal.SIGSTOP)  # it first sees the file from now on
    sshd.run(*tool.split(), original, sshd.at(daemon.inbox))
    assert (daemon.inbox / "b.jsonl").stat().st_mtime == dated
    before = time.monotonic()
    daemon.signal(signal.SIGCONT)
    eventually(daemon.outbox("b").exists)
    assert time.monotonic() - before >= settle
    answered(daemon, "b", original)


# -- uploads that take their time


@pytest.mark.parametrize("send", [["scp", *SLOW["scp"]], ["rsync", "--inplace", *SLOW["rsync"]]], ids=lambda s: s[0])
def test_a_slow_upload_is_not_claimed_before_its_end_though_it_looks_whole_at_every_pause(
    start_daemon: Start, sshd: Sshd, tmp_path: Path, send: list[str]
) -> None:
    daemon = start_daemon()
    original = tmp_path / "b.jsonl"
    original.write_bytes(batch_of_width(ALWAYS_AT_A_LINES_END))
    began = time.monotonic()
    client = sshd.start(*send, original, sshd.at(daemon.inbox))
    eventually((daemon.inbox / "b.jsonl").exists)
    with (daemon.inbox / "b.jsonl").open("rb") as arriving:  # wherever it is moved

        def over() -> bool:
            claimed = daemon.outbox("b").exists()
            size = os.fstat(arriving.fileno()).st_size
            assert not claimed or size == MEGABYTE, f"claimed at {size} bytes"
            return client.poll() is not None

        eventually(over, 60, "the upload's end")
    ended(client)
    assert time.monotonic() - began > 1.5, "the upload was not slow"
    answered(daemon, "b", original)


def test_a_stalled_upload_is_waited_for_though_what_has_arrived_looks_whole(
    start_daemon: Start, sshd: Sshd, tmp_path: Path
) -> None:
    daemon = start_daemon()
    original, arriving = tmp_path / "b.jsonl", daemon.inbox / "b.jsonl"
    original.write_bytes(batch_of_width(ALWAYS_AT_A_LINES_END))
    client = sshd.start("scp", *SLOWER["scp"], original, sshd.at(daemon.inbox))
    eventually(lambda: arriving.exists() and arriving.stat().st_size > HALF_WAY)
    os.killpg(client.pid, signal.SIGSTOP)
    keeps_waiting(daemon, "b.jsonl", "still being written")
    arrived = arriving.read_bytes()
    assert arrived.endswith(b"\n") and len(arrived) < MEGABYTE
    os.killpg(client.pid, signal.SIGCONT)
    ended(client)
    answered(daemon, "b", original)


def test_a_writer_that_pauses_with_the_file_open_is_waited_for_until_it_closes_it(
    start_daemon: Start, tmp_path: Path
) -> None:
    daemon = start_daemon()
    halves = [batch_of(50, "first-"), batch_of(50, "second-")]
    original = tmp_path / "kept.jsonl"
    original.write_bytes(b"".join(halves))
    with subprocess.Popen(["tee", daemon.inbox / "b.jsonl"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as tee:
        assert tee.stdin
        tee.stdin.write(halves[0])
        tee.stdin.flush()
        keeps_waiting(daemon, "b.jsonl", "still being written")
        assert (daemon.inbox / "b.jsonl").read_bytes() == halves[0]
        tee.stdin.write(halves[1])
    answered(daemon, "b", original)


def test_opening_a_file_for_writing_at_the_moment_it_is_examined_does_no_harm(start_daemon: Start) -> None:
    daemon = start_daemon()
    cut_off = daemon.inbox / "b.jsonl"
    cut_off.write_bytes(b'{"custom_id":"a",')

    def opened_over_and_over() -> bool:
        for _ in range(1000):
            os.close(os.open(cut_off, os.O_WRONLY))
        assert daemon.process.poll() is None, f"the daemon died: {daemon.process.returncode}"
        return "b.jsonl" in said(daemon).get("waiting", {}) and time.monotonic() > enough

    enough = time.monotonic() + 2.0  # a holder of a lease that does not expect the signal is dead within half of one
    eventually(opened_over_and_over)
    daemon.drop("b.jsonl", batch_of(3))
    assert daemon.finished("b")["request_counts"]["completed"] == 3


# -- uploads that were cut


def half_sent(daemon: Daemon, sshd: Sshd, original: Path, send: Sequence[str]) -> Path:
    """Begin to send the file, kill the sender half way and return what the inbox has under the final name."""
    client = sshd.start(send[0], *SLOWER[send[0]], *send[1:], original, sshd.at(daemon.inbox))

    def arrived() -> int:
        return sum(path.stat().st_size for path in daemon.inbox.iterdir() if original.name in path.name)

    eventually(lambda: arrived() > HALF_WAY, what="half of the file arrived")
    cut(client)
    truncated = daemon.inbox / original.name
    eventually(truncated.exists, what="the truncated file under its final name")
    assert HALF_WAY < truncated.stat().st_size < original.stat().st_size
    return truncated


def test_scp_killed_half_way_leaves_a_file_that_waits_and_completes_when_it_is_sent_again(
    start_daemon: Start, sshd: Sshd, tmp_path: Path
) -> None:
    daemon = start_daemon()
    original = tmp_path / "b.jsonl"
    original.write_bytes(batch_of_width(NEVER_AT_A_LINES_END))
    half_sent(daemon, sshd, original, ["scp"])
    keeps_waiting(daemon, "b.jsonl", "waiting for the rest: it ends in the middle of a line")
    told = "in the inbox, not taken yet: waiting for the rest"
    assert told in " ".join(inbox_daemon("status", "b", "--spool", daemon.spool).split())
    assert "'b.jsonl': waiting for the rest" in inbox_daemon("status", "--spool", daemon.spool)
    sshd.run("scp", original, sshd.at(daemon.inbox))
    answered(daemon, "b", original)


@pytest.mark.parametrize(
    ("name", "how", "why"),
    [
        ("b.jsonl", "--partial", "it ends in the middle of a line"),
        ("b.jsonl.gz", "--partial", "the compressed stream stops before its end"),
        ("b.jsonl", "--inplace", "it ends in the middle of a line"),
    ],
)
def test_rsync_cut_half_way_leaves_a_file_that_waits_and_completes_when_it_is_sent_again(
    start_daemon: Start, sshd: Sshd, tmp_path: Path, name: str, how: str, why: str
) -> None:
    daemon = start_daemon()
    original = tmp_path / name
    content = batch_of_width(NEVER_AT_A_LINES_END)
    original.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    half_sent(daemon, sshd, original, ["rsync", how])
    keeps_waiting(daemon, name, f"waiting for the rest: {why}")
    sshd.run("rsync", how, original, sshd.at(daemon.inbox))
    answered(daemon, "b", original)


@pytest.mark.parametrize("resume", ["rsync --append", "sftp reput"])
def test_a_cut_upload_may_be_resumed_where_it_stopped(
    start_daemon: Start, sshd: Sshd, tmp_path: Path, resume: str
) -> None:
    daemon = start_daemon()
    original = tmp_path / "b.jsonl"
    original.write_bytes(batch_of_width(NEVER_AT_A_LINES_END))
    truncated = half_sent(daemon, sshd, original, ["scp"])
    same = truncated.stat().st_ino
    keeps_waiting(daemon, "b.jsonl", "waiting for the rest")
    assert truncated.stat().st_ino == same
    if resume == "rsync --append":
        sshd.run("rsync", "--append", original, sshd.at(daemon.inbox))
    else:
        (tmp_path / "commands").write_text(f"reput {original} {truncated}\n")
        sshd.run("sftp", "-b", tmp_path / "commands", "box")
    answered(daemon, "b", original)


# -- after the claim


@pytest.mark.parametrize("kept", ["hard link", "descriptor"])
def test_writing_to_a_file_after_it_was_accepted_changes_nothing(
    start_daemon: Start, tmp_path: Path, kept: str
) -> None:
    daemon = start_daemon(environment=RUNS_A_WHILE)
    original, dropped = tmp_path / "original.jsonl", tmp_path / "dropped.jsonl"
    for path in (original, dropped):
        path.write_bytes(batch_of(2500))
    descriptor = os.open(dropped, os.O_RDONLY)
    subprocess.run(["ln" if kept == "hard link" else "mv", dropped, daemon.inbox / "b.jsonl"], check=True)
    eventually(lambda: daemon.status("b").get("status") == "in_progress")
    still_there = dropped if kept == "hard link" else Path(f"/proc/self/fd/{descriptor}")
    assert still_there.stat().st_ino == os.fstat(descriptor).st_ino
    with still_there.open("r+b") as file:
        file.write(batch_of(2500, "x"))
        file.write(batch_of(2500, "more-"))
    os.close(descriptor)
    assert daemon.status("b")["status"] == "in_progress"
    answered(daemon, "b", original)
    receipt = orjson.loads((daemon.outbox("b") / "receipt.json").read_bytes())
    assert receipt["input"]["sha256"] == hashlib.sha256(batch_of(2500)).hexdigest()


def test_a_file_that_is_written_to_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    """Opened between being judged settled and being claimed; what was noted of it before does not count."""
    work = Work(tmp_path / "work" / "batch_1")
    work.dropped.mkdir(parents=True)
    dropped = work.dropped / "b.jsonl"
    dropped.write_bytes(b"not a line..\n" + batch_of(5000))
    with files.Writer(work.open_part, fresh=True) as part:
        steps = ingest.ingest(work, rules_of(Config()), part)
        with dropped.open("ab") as writer:
            assert next(steps) is False
            writer.write(batch_of(1, "late-"))
        assert next(steps) is True
        with dropped.open("r+b") as writer:
            writer.write(b"another line")
        with suppress(StopIteration):
            while True:
                next(steps)
    assert ingest.load(work).requests == 5002
    assert work.input.read_bytes() == dropped.read_bytes()
    assert [error_of(line).line for line in lines(work.open_part)] == [1]


def test_parts_pulled_away_while_the_batch_runs_miss_nothing_and_neither_do_the_results(
    start_daemon: Start, sshd: Sshd, tmp_path: Path
) -> None:
    daemon = start_daemon(environment=RUNS_A_WHILE | {"INBOX_DAEMON_RESULTS__SEAL_EVERY": "50"})
    daemon.drop("b.jsonl", batch_of(6000))
    eventually((daemon.outbox("b") / "parts" / "part-000001.jsonl").exists)
    pulled = tmp_path / "pulled"
    while_running = 0

    def everything_pulled() -> bool:
        nonlocal while_running
        status = daemon.status("b")["status"]
        sshd.run("rsync", "-a", "--remove-source-files", sshd.at(daemon.outbox("b") / "parts") + "/", pulled)
        while_running += status == "in_progress" and any(pulled.iterdir())
        return bool(status == "completed")

    eventually(everything_pulled, 90, "the batch's end")
    assert while_running >= 1
    assert list((daemon.outbox("b") / "parts").iterdir()) == []
    expected = [f"r{i}" for i in range(6000)]
    by_parts = [custom_id for part in pulled.iterdir() for custom_id in custom_ids(part)]
    assert sorted(by_parts) == sorted(expected)
    sshd.run("rsync", "-a", sshd.at(daemon.outbox("b") / "results.jsonl"), pulled)
    assert custom_ids(pulled / "results.jsonl") == expected
    assert proof.verify(Published(daemon.outbox("b"))).problems == []


# -- what is no upload


def test_what_is_not_meant_as_a_batch_is_left_alone_and_the_daemon_goes_on(start_daemon: Start, tmp_path: Path) -> None:
    daemon = start_daemon()
    unfinished = [".b.jsonl", ".b.jsonl.Ab12Cd", "b.jsonl.part", "b.jsonl.tmp", "b.jsonl.filepart", "b.jsonl~"]
    for name in unfinished:
        (daemon.inbox / name).write_bytes(batch_of(2))
    elsewhere = tmp_path / "elsewhere.jsonl"
    elsewhere.write_bytes(batch_of(2))
    (daemon.inbox / "link.jsonl").symlink_to(elsewhere)
    (daemon.inbox / "dangling.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    (daemon.inbox / "folder.jsonl").mkdir()
    (daemon.inbox / "folder.jsonl" / "b.jsonl").write_bytes(batch_of(2))
    os.mkfifo(daemon.inbox / "pipe.jsonl")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(daemon.inbox / "socket.jsonl"))
    (daemon.inbox / "notes.txt").write_text("not for the daemon")
    before = {path.name: path.lstat()[:3] + path.lstat()[6:] for path in daemon.inbox.iterdir()}
    for name in ("first", "second"):
        daemon.drop(f"{name}.jsonl", batch_of(3))
        assert daemon.finished(name)["request_counts"]["completed"] == 3
    assert {path.name: path.lstat()[:3] + path.lstat()[6:] for path in daemon.inbox.iterdir()} == before
    assert sorted(path.name for path in daemon.outbox("").iterdir()) == ["first", "second"]
    strange = ["dangling.jsonl", "folder.jsonl", "link.jsonl", "pipe.jsonl", "socket.jsonl"]
    waiting = eventually(lambda: w if (w := said(daemon)["waiting"]).keys() >= {*strange, "notes.txt"} else None)
    assert {name: waiting.get(name) for name in strange} == dict.fromkeys(strange, "not taken: not a regular file")
    assert "the inbox takes .jsonl" in waiting["notes.txt"]
    assert not waiting.keys() & set(unfinished)
    assert stat.S_ISFIFO((daemon.inbox / "pipe.jsonl").lstat().st_mode)


def test_a_name_that_is_not_utf_8_waits_like_any_other(start_daemon: Start) -> None:
    daemon = start_daemon()
    Path(os.fsdecode(os.fsencode(daemon.inbox) + b"/caf\xe9.jsonl")).write_bytes(b"{")
    keeps_waiting(daemon, "caf_.jsonl", "waiting for the rest")
    assert "caf_: in the inbox, not taken yet" in inbox_daemon("status", "caf_", "--spool", daemon.spool)


def test_a_name_that_is_not_utf_8_is_run_like_any_other(start_daemon: Start) -> None:
    daemon = start_daemon()
    Path(os.fsdecode(os.fsencode(daemon.inbox) + b"/caf\xe9.jsonl")).write_bytes(batch_of(3))
    assert daemon.finished("caf_", within=30)["request_counts"]["completed"] == 3


# -- the inbox itself


def watched(daemon: Daemon) -> set[int]:
    """Return the inodes that the kernel watches for the daemon (inotify, proc(5))."""
    texts = []
    for info in Path(f"/proc/{daemon.process.pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):
            texts.append(info.read_text())
    return {int(inode, 16) for inode in re.findall(r"^inotify wd:\S+ ino:(\S+)", "\n".join(texts), re.MULTILINE)}


def test_an_inbox_deleted_and_made_again_is_watched_again(start_daemon: Start) -> None:
    daemon = start_daemon()
    assert watched(daemon) == {daemon.inbox.stat().st_ino}
    daemon.inbox.rmdir()
    eventually(lambda: "inbox cannot be read" in daemon.text())
    began, times = time.monotonic(), daemon.text().count("inbox cannot be read")
    eventually(lambda: daemon.text().count("inbox cannot be read") >= times + 5)
    assert time.monotonic() - began >= 2.0, "the daemon does nothing but look for its inbox"
    daemon.inbox.mkdir()
    eventually(lambda: watched(daemon) == {daemon.inbox.stat().st_ino})
    daemon.drop("b.jsonl", batch_of(3))
    assert daemon.finished("b")["request_counts"]["completed"] == 3


def test_an_inbox_replaced_by_another_folder_is_the_one_that_is_watched(start_daemon: Start) -> None:
    daemon = start_daemon()
    old = daemon.inbox.rename(daemon.spool / "inbox.old")
    daemon.inbox.mkdir()
    (old / "late.jsonl").write_bytes(batch_of(3))
    eventually(lambda: watched(daemon) == {daemon.inbox.stat().st_ino})
    daemon.drop("b.jsonl", batch_of(3))
    assert daemon.finished("b")["request_counts"]["completed"] == 3
    assert "watching" in daemon.text() and "anew" in daemon.text()
    assert (old / "late.jsonl").exists()


def test_an_inbox_moved_elsewhere_with_a_link_in_its_place_goes_on(
    start_daemon: Start, sshd: Sshd, tmp_path: Path
) -> None:
    daemon = start_daemon()
    daemon.inbox.rename(tmp_path / "inbox.moved")
    daemon.inbox.symlink_to(tmp_path / "inbox.moved")
    original = tmp_path / "b.jsonl"
    original.write_bytes(batch_of(200))
    sshd.run("scp", original, sshd.at(daemon.inbox))
    answered(daemon, "b", original)
    assert watched(daemon) == {daemon.inbox.stat().st_ino}


def test_files_whose_events_the_kernel_threw_away_are_found(start_daemon: Start) -> None:
    """inotify's queue overflows while the daemon stands still, and the next rescan is far away."""
    daemon = start_daemon(environment={"INBOX_DAEMON_INBOX__RESCAN": "600"})
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    daemon.signal(signal.SIGSTOP)
    for i in range(limit // 2 + 1000):  # each makes two events or more: created, and closed
        path = daemon.inbox / f".{i}"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
        path.unlink()
    daemon.drop("b.jsonl", batch_of(3))
    daemon.signal(signal.SIGCONT)
    assert daemon.finished("b")["request_counts"]["completed"] == 3
    daemon.drop("c.jsonl", batch_of(3))
    assert daemon.finished("c")["request_counts"]["completed"] == 3


def test_a_host_without_a_free_inotify_instance_is_polled(tmp_path: Path) -> None:
    spool, config, log = tmp_path / "spool", tmp_path / "config.toml", tmp_path / "log"
    config.write_text('engine.kind = "null"\ninbox.settle = 0.2\n')
    command = f"{shlex.quote(sys.executable)} -m inbox_daemon run --spool {spool} --config {config}"
    limited = f"echo 0 > /proc/sys/user/max_inotify_instances && exec {command}"
    with log.open("wb") as output:  # the limit is that of a user namespace of its own
        process = subprocess.Popen(["unshare", "-Ur", "sh", "-c", limited], stdout=output, stderr=subprocess.STDOUT)
    try:
        eventually(lambda: b"ready: " in log.read_bytes() or process.poll() is not None)
        assert b"inbox cannot be watched (inotify instance limit reached)" in log.read_bytes()
        (spool / "inbox" / "b.jsonl").write_bytes(batch_of(3))
        eventually((spool / "outbox" / "b" / "receipt.json").exists, what=log.read_text())
    finally:
        process.kill()
        process.wait()
