"""Hostile files: nothing outside the spool is read or written, nobody waits for one, and each gets one clear error."""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import signal
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import psutil
import pytest
from running import Daemon, batch_of, custom_ids, error_of, eventually, jsonl, lines, request

from inbox_daemon.config import Config
from inbox_daemon.errors import Rejected
from inbox_daemon.layout import Spool, Work
from inbox_daemon.request.line import read_line
from inbox_daemon.request.reading import rules_of
from inbox_daemon.spool import files, ingest, published

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Start = Callable[..., Daemon]
MB = 1_000_000
SECONDS = 30.0  # within which somebody else's small batch is through, settling included
# What terminals obey and log readers split at: C0 but for newline and tab, DEL, C1, line ends, changes of direction.
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def peak(daemon: Daemon) -> float:
    """The most memory the daemon has ever had, in MB."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024 / MB


def on_disk(folder: Path) -> float:
    """What a folder really takes, in MB; holes take nothing."""
    total = 0
    for parent, _, names in os.walk(folder):  # which may vanish meanwhile
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(parent, name).lstat().st_blocks * 512
    return total / MB


def tree(folder: Path) -> dict[str, tuple[int, ...]]:
    """Everything in a folder with what changes when it is written."""
    found = {path: path.lstat() for path in [folder, *folder.rglob("*")]}
    return {str(path): (there.st_ino, there.st_mode, there.st_size, there.st_mtime_ns) for path, there in found.items()}


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def nobody_waits(daemon: Daemon, name: str = "other") -> None:
    """Drop a small batch now and see it through, within seconds."""
    daemon.drop(f"{name}.jsonl", batch_of(5))
    assert daemon.finished(name, SECONDS)["request_counts"]["completed"] == 5


def harmless(text: str) -> None:
    assert [hex(ord(found)) for found in STEERING.findall(text)] == []


def said_once(daemon: Daemon, words: str) -> None:
    assert daemon.text().count(words) == 1, daemon.text()


def run(*arguments: str | bytes | Path) -> str:
    """What a verb of the command line writes."""
    command = [sys.executable, "-m", "inbox_daemon", *arguments]
    ended = subprocess.run(command, capture_output=True, check=False)
    assert b"Traceback" not in ended.stderr, ended.stderr.decode()
    return (ended.stdout + ended.stderr).decode()


def failed(daemon: Daemon, name: str, code: str, within: float = 60.0) -> str:
    """Wait for a batch that fails as a whole; return its one error."""
    status = daemon.finished(name, within)
    assert status["status"] == "failed"
    assert [error["code"] for error in status["errors"]["data"]] == [code], status["errors"]
    eventually(lambda: f"{name}: failed: " in daemon.text())
    said_once(daemon, f"{name}: failed: ")
    assert (daemon.outbox(name) / "receipt.json").exists()
    return str(status["errors"]["data"][0]["message"])


# -- what is no file


def symlink(path: Path) -> None:
    secret = path.parents[2] / "secret"
    secret.write_bytes(batch_of(1, "SECRET"))
    path.symlink_to(secret)


def to_passwd(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.symlink_to(path.parents[2] / "not-there")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as there:
        there.bind(path.name)


def directory(path: Path) -> None:
    path.mkdir()
    (path / "inside.jsonl").write_bytes(batch_of(1, "SECRET"))


def endless_device(path: Path) -> None:
    os.mknod(path, 0o666 | 0o020000, os.makedev(1, 5))  # /dev/zero


def terminal(path: Path) -> None:
    os.mknod(path, 0o666 | 0o020000, os.makedev(5, 0))  # /dev/tty


NO_FILES = [symlink, to_passwd, loop, dangling, fifo, listening, directory]
ROOTS = [endless_device, terminal] if os.geteuid() == 0 else []  # nobody else could drop one
NAMED_LIKE = [".jsonl", ".jsonl.gz", ".jsonl.zst", ".cancel"]


def test_what_is_no_file_is_left_alone_and_named_once(start_daemon: Start, tmp_path: Path) -> None:
    daemon = start_daemon()
    made = [daemon.inbox / f"{make.__name__}{suffix}" for make in NO_FILES + ROOTS for suffix in NAMED_LIKE]
    daemon.signal(signal.SIGSTOP)  # one scan is to see all of them
    for path in made:
        next(make for make in NO_FILES + ROOTS if make.__name__ == path.name.split(".")[0])(path)
    daemon.signal(signal.SIGCONT)
    inbox, secret = tree(daemon.inbox), tree(tmp_path / "secret")
    nobody_waits(daemon)
    eventually(lambda: {path.name for path in made} <= published.waiting(Spool(daemon.spool)).keys())
    nobody_waits(daemon, "another")
    waiting = published.waiting(Spool(daemon.spool))
    assert {waiting[path.name] for path in made} == {"not taken: not a regular file"}
    log = daemon.text()
    named = [log.count(f"{path.name!r} not taken: not a regular file") for path in made]
    assert max(named) == 1
    assert 20 <= sum(named) < len(made), "the log names 20 of one scan, and counts the others"
    assert "more files are not taken; inbox-daemon status says why" in log
    assert {path.name for path in (daemon.spool / "outbox").iterdir()} == {"other", "another"}
    assert b"SECRET" not in everything_in(daemon.spool / "outbox") + everything_in(daemon.spool / "work")
    assert tree(tmp_path / "secret") == secret
    assert {name: there for name, there in tree(daemon.inbox).items() if name != str(daemon.inbox)} == {
        name: there for name, there in inbox.items() if name != str(daemon.inbox)
    }


def test_a_link_put_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    """Between the look at the inbox and the opening, whoever owns the file can replace it."""
    work = claimed(tmp_path, "x.jsonl", b"")
    (work.dropped / "x.jsonl").unlink()
    (work.dropped / "x.jsonl").symlink_to("/etc/passwd")
    with pytest.raises(Rejected) as raised:
        taken_in(work, Config())
    assert raised.value.code == "unreadable"
    assert not work.input.exists()


# -- names

OURS = ("input.jsonl", "results.jsonl", "errors.jsonl", "retry.jsonl")
NAMES = [
    b"new\nline: accepted.jsonl",
    b"\x1b]0;owned\x07\x1b[2J.jsonl",
    b"carriage\rreturn.jsonl",
    "c1\u009b31m.jsonl".encode(),
    "right\u202eto-left\u2028.jsonl".encode(),
    b"up\\..\\..\\windows.jsonl",
    b"a..jsonl",
    b"%2e%2e%2fetc.jsonl",
    b"-rf --config=x.jsonl",
    b"$(touch owned);`id`|&.jsonl",
    b"[bold]markup[red][[.jsonl",
    b"%s%n%d{}{0}.jsonl",
    b"not-utf-8-\xff\xfe.jsonl",
    b"status.json.jsonl",
    b"n" * 249 + b".jsonl",
    "\U0001f4e5".encode() * 62 + b".jsonl",
    b" .jsonl",
]


def drop(daemon: Daemon, name: bytes, content: bytes) -> None:
    hidden = os.fsencode(daemon.inbox) + b"/.arriving"
    with open(hidden, "wb") as file:
        file.write(content)
    os.rename(hidden, os.fsencode(daemon.inbox) + b"/" + name)  # noqa: PTH104


@pytest.mark.slow
def test_a_name_is_only_a_name(start_daemon: Start, tmp_path: Path) -> None:
    daemon = start_daemon()
    outside = set(tmp_path.iterdir())
    for i, name in enumerate(NAMES):
        drop(daemon, name, batch_of(2, f"good{i}-"))
    for name in NAMES:
        eventually(lambda name=name: not os.path.lexists(os.fsencode(daemon.inbox) + b"/" + name))
        drop(daemon, name, b"")
    nobody_waits(daemon)
    outbox = daemon.spool / "outbox"
    eventually(lambda: len(list(outbox.glob("*/receipt.json"))) == 2 * len(NAMES) + 1)
    eventually(lambda: not list((daemon.spool / "work").iterdir()))
    answered = {one for path in outbox.glob("*/results.jsonl") for one in custom_ids(path)}
    assert {f"good{i}-1" for i in range(len(NAMES))} <= answered
    given_back = [os.fsencode(path.name) for path in outbox.glob("*/*.jsonl") if path.name not in OURS]
    assert sorted(given_back) == sorted(NAMES)
    for folder in outbox.iterdir():
        harmless(folder.name)
        assert len(os.fsencode(folder.name)) <= 182
        harmless(run("status", folder.name, "--spool", daemon.spool) if folder.name.endswith(".2") else "")
    harmless(run("status", "--spool", daemon.spool))
    harmless(daemon.text())
    assert daemon.text().count(": failed: ") == len(NAMES)
    assert set(tmp_path.iterdir()) == outside


def test_check_shows_a_name_without_obeying_it(tmp_path: Path) -> None:
    paths = [os.fsencode(tmp_path) + b"/" + name for name in NAMES]
    for path in paths:
        with open(path, "wb") as file:
            file.write(b"one\n" + jsonl([request("a"), request("a"), request("\x9b31m", model="\x9b")]))
    shown = run("check", *paths)
    harmless(shown)
    assert shown.count(": invalid_json: ") == len(NAMES)
    objects = [orjson.loads(line) for line in run("check", "--json", *paths).strip().split("\n")]
    assert [one["faulty"] for one in objects] == [2] * len(NAMES)


@pytest.mark.slow  # it is thrown away after five seconds
def test_a_control_file_with_a_hostile_name_is_thrown_away_quietly(start_daemon: Start) -> None:
    daemon = start_daemon()
    names = [b"new\nline: accepted.cancel", b"\x1b[2J.pause", b"x\\..\\y.resume", b"\xff.cancel"]
    for name in names:
        with open(os.fsencode(daemon.inbox) + b"/" + name, "wb"):
            pass
    eventually(lambda: not list(daemon.inbox.iterdir()))
    eventually(lambda: daemon.text().count(" thrown away: ") == len(names))  # said after it is gone
    assert "\nline" not in daemon.text()
    harmless(daemon.text())


# -- rights


def test_a_file_that_may_not_be_read_comes_back_with_the_reason(start_daemon: Start) -> None:
    """As root, without the privilege to read everything."""
    rights = "-dac_override,-dac_read_search"
    prefix = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"] if os.geteuid() == 0 else []
    daemon = start_daemon(prefix=prefix)
    (daemon.inbox / ".x").write_bytes(batch_of(3))
    (daemon.inbox / ".x").chmod(0)
    (daemon.inbox / ".x").rename(daemon.inbox / "x.jsonl")
    nobody_waits(daemon)
    assert "Permission denied" in failed(daemon, "x", "unreadable")
    eventually((daemon.outbox("x") / "x.jsonl").exists)
    assert not (daemon.inbox / "x.jsonl").exists()


# -- sizes


@pytest.mark.parametrize("end", [b"", b"\n"], ids=["cut", "ended"])
def test_a_sparse_terabyte_is_refused_unread(start_daemon: Start, end: bytes) -> None:
    daemon = start_daemon()
    path = daemon.inbox / ".x"
    path.touch()
    os.truncate(path, 10**12)
    with path.open("ab") as file:
        file.write(end)
    path.rename(daemon.inbox / "x.jsonl")
    nobody_waits(daemon)
    assert "inbox.max_file_bytes" in failed(daemon, "x", "file_too_large", SECONDS)
    eventually(lambda: not list((daemon.spool / "work").iterdir()))
    assert (daemon.outbox("x") / "x.jsonl").stat().st_size == 10**12 + len(end)
    assert on_disk(daemon.spool) < 1
    assert peak(daemon) < 100


def test_a_sparse_file_within_the_limits_waits_for_its_end(start_daemon: Start) -> None:
    daemon = start_daemon()
    (daemon.inbox / ".x").touch()
    os.truncate(daemon.inbox / ".x", 10**10)
    (daemon.inbox / ".x").rename(daemon.inbox / "x.jsonl")
    eventually(lambda: "waiting for the rest" in daemon.text())
    nobody_waits(daemon)
    said_once(daemon, "'x.jsonl' waiting for the rest: it ends in the middle of a line")
    assert on_disk(daemon.spool) < 1
    assert peak(daemon) < 150


@pytest.mark.slow
def test_a_line_of_64_mb_costs_that_line(start_daemon: Start) -> None:
    daemon = start_daemon(environment={"INBOX_DAEMON_INBOX__MAX_LINE_BYTES": str(MB)})
    long = b'{"custom_id":"' + b"x" * 64 * MB + b'"}\n'
    daemon.drop("x.jsonl", batch_of(3, "before") + long + batch_of(3, "after"))
    nobody_waits(daemon)
    assert daemon.finished("x")["request_counts"] == {"total": 7, "completed": 6, "failed": 1}
    assert [error_of(e)[:2] for e in lines(daemon.outbox("x") / "errors.jsonl")] == [(4, "line_too_long")]
    assert peak(daemon) < 100


DEEP = b"[" * 1000 + b"]" * 1000
PIECES = {
    "brackets": (b"[" * 100_000, "invalid_json"),
    "objects": (b'{"a":' * 100_000, "invalid_json"),
    "many": (b"[" + b"{}," * 10 * MB + b"{}]", "too_complex"),
    "strings": (b"[" + b'"ab",' * 6 * MB + b"0]", "too_complex"),
    "keys": (b"{" + b'"a":0,' * 5 * MB + b'"a":0}', "too_complex"),
    "deep-id": (b'{"custom_id":' + DEEP + b"}", "invalid_custom_id"),
    "deep": (b'{"custom_id":"a","method":' + DEEP + b"}", "invalid_method"),
    "deep-body": (
        b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"tools":' + DEEP + b"}}",
        "too_complex",
    ),
    "deep-fault": (b'{"custom_id":"a","method":"POST","url":"x","body":' + DEEP + b"}", "invalid_url"),
    "bytes": (b'{"custom_id":"\xff\xfe"}', "invalid_json"),
    "half": (b'{"custom_id":"\\ud800"}', "invalid_json"),
    "nul": (b"\x00" * 1000, "invalid_json"),
}


@pytest.mark.slow
def test_a_line_made_to_hurt_the_parser_costs_that_line(start_daemon: Start) -> None:
    daemon = start_daemon()
    for name, (piece, _) in PIECES.items():
        daemon.drop(f"{name}.jsonl", batch_of(2, "before") + piece + b"\n" + batch_of(2, "after"))
    nobody_waits(daemon)
    for name, (_, code) in PIECES.items():
        assert daemon.finished(name)["request_counts"] == {"total": 5, "completed": 4, "failed": 1}
        (error,) = lines(daemon.outbox(name) / "errors.jsonl")
        assert (name, *error_of(error)[:2]) == (name, 3, code)
        assert len(error_of(error).message) < 400
    assert peak(daemon) < 200


@pytest.mark.parametrize("levels", [255, 1000])
def test_a_line_nested_too_deeply_for_anybody_to_go_through_is_a_fault(levels: int) -> None:
    [line] = jsonl([request("deep", tools="NESTED")]).splitlines()
    nested = line.replace(b'"NESTED"', b"[" * levels + b"]" * levels)
    found = read_line(nested, lambda model: None, lambda url, body: None).fault
    assert found and (found.code, found.custom_id) == ("too_complex", "deep")
    wide = line.replace(b'"NESTED"', b"[" + b",".join([b"[[]]"] * levels) + b"]")
    assert read_line(wide, lambda model: None, lambda url, body: None).fault is None


@pytest.mark.slow
def test_a_file_of_nothing_but_faults_costs_little_memory(start_daemon: Start) -> None:
    daemon = start_daemon()
    daemon.drop("x.jsonl", b"x\n" * 200_000)
    nobody_waits(daemon)
    status = daemon.finished("x", 120)
    assert status["status"] == "failed"
    assert status["request_counts"] == {"total": 200_000, "completed": 0, "failed": 200_000}
    assert len(status["errors"]["data"]) == 100
    eventually(lambda: "x: failed: " in daemon.text())
    assert daemon.text().count("\n") < 30
    assert peak(daemon) < 150


def bomb(content: bytes, times: int) -> bytes:
    """gzip of `content` many times over."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join([*(packer.compress(content) for _ in range(times)), packer.flush()])


def zstd_bomb(content: bytes, times: int) -> bytes:
    packer = zstd.ZstdCompressor()
    return b"".join([*(packer.compress(content) for _ in range(times)), packer.flush()])


LIMITS = {"INBOX_DAEMON_INBOX__MAX_FILE_BYTES": str(50 * MB), "INBOX_DAEMON_INBOX__MAX_LINES": "100000"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "content", "code"),
    [
        (".jsonl.gz", lambda: bomb(bytes(MB), 250), "file_too_large"),
        (".jsonl.zst", lambda: zstd_bomb(bytes(MB), 1000), "file_too_large"),
        (".jsonl.gz", lambda: bomb(b"\n" * MB, 40), "too_many_lines"),
        (".jsonl.zst", lambda: zstd_bomb(b"x\n" * MB, 20), "too_many_lines"),
        (".jsonl.gz", lambda: gzip.compress(b"") * 70_000, "empty_file"),
        (".jsonl.zst", lambda: zstd.compress(b"\n") * 60_000 + zstd.compress(b"x\n") * 60_000, "too_many_lines"),
    ],
    ids=["gzip-of-zeros", "zstd-of-zeros", "gzip-of-newlines", "zstd-of-faults", "gzip-streams", "zstd-streams"],
)
def test_a_compression_bomb_stops_at_the_limits(
    start_daemon: Start, suffix: str, content: Callable[[], bytes], code: str
) -> None:
    daemon = start_daemon(environment=LIMITS)
    packed = content()
    assert len(packed) < 10 * MB
    daemon.drop(f"x{suffix}", packed)
    nobody_waits(daemon)
    most = 0.0

    def over() -> bool:
        nonlocal most
        most = max(most, on_disk(daemon.spool / "work"))
        return bool(daemon.status("x").get("status") == "failed")

    eventually(over, 120)
    failed(daemon, "x", code)
    assert most < 75
    assert peak(daemon) < 150
    eventually(lambda: not list((daemon.spool / "work").iterdir()))
    assert on_disk(daemon.spool) < 15


def claimed(folder: Path, name: str, content: bytes) -> Work:
    work = Work(folder / "work" / "batch_1")
    work.dropped.mkdir(parents=True)
    (work.dropped / name).write_bytes(content)
    return work


def taken_in(work: Work, config: Config) -> None:
    part = files.Writer(work.open_part, fresh=True)
    with contextlib.closing(ingest.ingest(work, rules_of(config), part)) as steps:
        for _ in steps:
            pass
    part.close()


def test_a_compressed_file_that_does_not_fit_on_the_disk_is_refused_before_the_disk_is_full(tmp_path: Path) -> None:
    work = claimed(tmp_path, "x.jsonl.gz", gzip.compress(batch_of(1000)))
    config = replace(Config(), results=replace(Config().results, keep_free=10**18))
    with pytest.raises(Rejected) as raised:
        taken_in(work, config)
    assert raised.value.code == "disk_full"
    assert work.input.stat().st_size == 0


def test_a_plain_file_whose_room_went_after_it_was_claimed_waits_for_it(tmp_path: Path) -> None:
    work = claimed(tmp_path, "x.jsonl", batch_of(1000))
    part = files.Writer(work.open_part, fresh=True)
    full = replace(Config(), results=replace(Config().results, keep_free=10**18))
    with contextlib.closing(ingest.ingest(work, rules_of(full), part)) as steps:
        assert [next(steps) for _ in range(100)] == [False] * 100
    part.close()
    assert work.input.stat().st_size == 0
    taken_in(work, Config())
    assert ingest.load(work).requests == 1000


@pytest.mark.slow
def test_any_number_of_compressed_files_is_read_with_few_descriptors(start_daemon: Start) -> None:
    daemon = start_daemon(environment={"INBOX_DAEMON_INBOX__MAX_CLAIMED": "4"})
    psutil.Process(daemon.process.pid).rlimit(psutil.RLIMIT_NOFILE, (60, 60))
    for i in range(100):
        daemon.drop(f"f{i}.jsonl.gz", gzip.compress(batch_of(1, f"f{i}-")))
    for i in range(100):
        assert daemon.finished(f"f{i}")["status"] == "completed"


# -- custom_ids

IDS = [
    *("../../../etc/passwd", "/etc/passwd", "a/b", ".", "..", "\\\\host\\share", "C:\\con"),
    *("\x1b]0;owned\x07", "\x00", "\r\nfake: accepted", "\x9b31m", "\u202e\u2066", "\ufeff", "\U000e0001"),
    *("'; DROP TABLE x; --", "<script>", "${jndi:ldap://x}", "{{7*7}}", "%s%n", "$(id)", "=cmd()", "x" * 512),
]


def test_a_custom_id_meant_for_a_path_or_a_terminal_is_only_an_id(start_daemon: Start, tmp_path: Path) -> None:
    daemon = start_daemon(environment={"INBOX_DAEMON_DAEMON__LOG_LEVEL": "debug"})
    too_long = ["x" * 513, "é" * (32 << 10), "é" * (32 << 10) + "x"]
    content = jsonl([request(one) for one in (*IDS, *IDS, *too_long)])
    outside = set(tmp_path.iterdir())
    daemon.drop("x.jsonl", content)
    assert daemon.finished("x")["request_counts"] == {"total": 2 * len(IDS) + 3, "completed": len(IDS), "failed": 25}
    assert custom_ids(daemon.outbox("x") / "results.jsonl") == IDS
    errors = lines(daemon.outbox("x") / "errors.jsonl")
    codes = [error_of(error).code for error in errors]
    assert codes == ["duplicate_custom_id"] * len(IDS) + ["invalid_custom_id"] * 3
    assert [error["custom_id"] for error in errors] == [*IDS, *too_long[:2], None]
    assert "than 64 KB" in error_of(errors[-1]).message
    for name in ("results.jsonl", "errors.jsonl", "status.json"):
        assert not re.search(rb"[\x00-\x09\x0b-\x1f]", (daemon.outbox("x") / name).read_bytes())
    assert sorted(path.name for path in daemon.outbox("x").iterdir()) == [
        *("errors.jsonl", "input.jsonl", "parts", "receipt.json", "results.jsonl", "status.json"),
    ]
    assert set(tmp_path.iterdir()) == outside
    harmless(daemon.text())
    (tmp_path / "x.jsonl").write_bytes(content)
    for shown in (run("status", "x", "--spool", daemon.spool), run("check", tmp_path / "x.jsonl")):
        assert "duplicate_custom_id" in shown
        harmless(shown)
