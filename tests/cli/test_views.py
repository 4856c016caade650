"""What the verbs say where nothing goes on, where nothing is, and where nothing may be read or written."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
import said
from rich.console import Console
from running import Daemon, batch_of, eventually

from inbox_daemon import cli
from inbox_daemon.cli import show, status
from inbox_daemon.layout import Spool
from inbox_daemon.spool import published
from inbox_daemon.spool.shapes import SCHEMA

Start = Callable[..., Daemon]
Verb = Callable[..., tuple[int, str]]
Watched = Callable[[dict[str, Any]], list[str]]

RIGHTS = "sudo usermod -aG inbox-submit YOU"
NOBODY = 65534
BACKS_OFF = said.without(said.engine(state="backing_off", last_death="the model does not fit"), "version")


@pytest.fixture
def verb(capfd: pytest.CaptureFixture[str]) -> Verb:
    """Run a verb on a spool and return its exit status and all that it printed, in one line."""

    def run(spool: Spool, *arguments: object) -> tuple[int, str]:
        where = [] if arguments[0] == "verify" else ["--spool", str(spool.root)]
        code = cli.main([*map(str, arguments), *where])
        return code, " ".join("".join(capfd.readouterr()).split())

    return run


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return made(tmp_path / "spool")


def made(root: Path) -> Spool:
    spool = Spool(root)
    for folder in (spool.inbox, spool.outbox, spool.daemons):
        folder.mkdir(parents=True)
    return spool


def publish(spool: Spool, state: dict[str, Any]) -> None:
    folder = spool.outbox / state["name"]
    folder.mkdir(exist_ok=True)
    (folder / ".status").write_bytes(orjson.dumps(state))
    (folder / ".status").rename(folder / "status.json")


def live(spool: Spool, **changed: Any) -> None:
    """A daemon says that it is there."""
    (spool.daemons / "gpu-box-4700.json").write_bytes(orjson.dumps(said.daemon(waiting={}, **changed)))


@pytest.fixture
def watched(spool: Spool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Watched:
    """The lines that who waits for a batch gets to read, in a minute of it and at its end."""

    def watch(state: dict[str, Any]) -> list[str]:
        now = 0.0

        def sleep(seconds: float) -> None:
            nonlocal now
            now += seconds
            if now >= 60:
                publish(spool, state | {"status": "completed", "engines": []})

        publish(spool, state)
        monkeypatch.setattr(status, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep, time=time.time))
        assert status.watch(spool, state["name"], lambda: published.status(spool, state["name"])) == 3
        return capfd.readouterr().out.splitlines()

    return watch


# -- no daemon lives


def test_a_batch_without_a_living_daemon_has_no_rate_and_no_time_left(spool: Spool, verb: Verb) -> None:
    publish(spool, said.batch())
    for arguments in (["status"], ["status", "candidates"], ["top", "--once"]):
        _, text = verb(spool, *arguments)
        assert "7,003/50,000" in text
        assert "92.5" not in text and "14,060" not in text and "7 min 45 s" not in text, arguments
    live(spool)
    for arguments in (["status"], ["status", "candidates"], ["top", "--once"]):
        _, text = verb(spool, *arguments)
        assert "7 min 45 s" in text, arguments


def test_a_batch_whose_daemon_is_gone_says_that_it_goes_on_with_the_next(spool: Spool, verb: Verb) -> None:
    publish(spool, said.batch(engines=[said.engine()]))
    words = f"no daemon runs on {spool.root}: it goes on when one does"
    code, text = verb(spool, "status", "candidates")
    assert code == 0 and words in text and "engine" not in text
    publish(spool, said.batch(status="completed"))
    assert "no daemon" not in verb(spool, "status", "candidates")[1]


def test_who_waits_for_a_batch_of_no_daemon_is_told_once_and_waits_on(spool: Spool, watched: Watched) -> None:
    first, *others = watched(said.batch())
    assert f"; no daemon runs on {spool.root}: it goes on when one does" in first
    assert "requests/s" not in first and "left" not in first
    assert len(others) == 1 and "completed" in others[0]


def test_who_submits_and_waits_hears_that_no_daemon_runs_any_more(start_daemon: Start, tmp_path: Path) -> None:
    daemon = start_daemon(environment={"INBOX_DAEMON_ENGINE__NULL__RATE": "1", "INBOX_DAEMON_DAEMON__STOP_GRACE": "0"})
    spool = Spool(daemon.spool)
    (tmp_path / "b.jsonl").write_bytes(batch_of(1000))
    command = [sys.executable, "-m", "inbox_daemon", "submit", str(tmp_path / "b.jsonl"), "--wait"]
    with subprocess.Popen([*command, "--spool", str(spool.root)], stdout=subprocess.PIPE, text=True) as waiting:
        try:
            eventually(lambda: published.status(spool, "b"))
            daemon.stop()
            assert waiting.stdout is not None
            assert any("no daemon runs on" in line for line in waiting.stdout)  # or for ever
            assert waiting.poll() is None
        finally:
            waiting.kill()


# -- the engine


def test_a_batch_that_waits_for_an_engine_says_why_it_has_none(spool: Spool, verb: Verb) -> None:
    live(spool)
    publish(spool, said.batch(engines=[BACKS_OFF]))
    assert "engine backing_off, last died: the model does not fit" in verb(spool, "status", "candidates")[1]
    publish(spool, said.batch(engines=[BACKS_OFF], status="completed"))
    assert "engine" not in verb(spool, "status", "candidates")[1]


def test_who_waits_for_a_batch_hears_why_it_has_no_engine(spool: Spool, watched: Watched) -> None:
    live(spool)
    first, *_ = watched(said.batch(engines=[BACKS_OFF]))
    assert "engine backing_off, last died: the model does not fit" in first


@pytest.mark.parametrize("engines", [[said.engine()], [said.engine(1), said.engine(2)]], ids=["one", "two"])
def test_of_engines_that_answer_a_line_of_a_batch_says_nothing(
    engines: list[dict[str, Any]], spool: Spool, watched: Watched
) -> None:
    live(spool)
    first, *_ = watched(said.batch(engines=engines))
    assert first == "candidates: in_progress, 7003/50000 done, 3 errors, 92.5 requests/s, 7 min 45 s left"


def test_one_engine_is_told_of_in_full(spool: Spool, verb: Verb) -> None:
    live(spool)
    words = "engine ready, Qwen/Qwen3-4B (vllm 0.32.0), 1024 running, 512 waiting, KV cache 64%"
    publish(spool, said.batch(engines=[said.engine()]))
    assert words in verb(spool, "status", "candidates")[1]
    assert f"daemon gpu-box (pid 4700): {words}" in verb(spool, "status")[1]


def test_a_daemon_that_stops_says_so(spool: Spool, verb: Verb) -> None:
    live(spool, stopping=True)
    assert "daemon gpu-box (pid 4700), stopping: engine ready" in verb(spool, "status")[1]
    assert "gpu-box, stopping, pid" in verb(spool, "top", "--once")[1]


def test_several_engines_are_told_of_together(spool: Spool, verb: Verb, watched: Watched) -> None:
    engines = [
        said.engine(1, kv_cache_usage=0.4),
        said.engine(2, state="loading", phase="loading weights"),
        said.engine(3, state="backing_off", last_death="the model does not fit"),
        said.engine(4, state="backing_off", last_death="the model does not fit"),
    ]
    together = (
        "4 engines: 1 ready, 1 loading (loading weights), 2 backing_off; 1024 running, 512 waiting, KV cache 40%; "
        "engines 3, 4 last died: the model does not fit"
    )
    live(spool, engines=engines)
    assert f"daemon gpu-box (pid 4700): {together}" in verb(spool, "status")[1]
    publish(spool, said.batch(engines=engines))
    assert together in verb(spool, "status", "candidates")[1]
    first, *_ = watched(said.batch(engines=engines))
    assert first.endswith(f"left; {together}")


def test_of_several_models_each_has_a_line_and_a_batch_hears_of_its_own(spool: Spool, verb: Verb) -> None:
    engines = [said.engine(1), said.engine(2), said.engine(3, model="BAAI/bge-m3", state="loading")]
    live(spool, engines=engines)
    text = verb(spool, "status")[1]
    assert "3 engines: 2 ready, 1 loading; 2048 running, 1024 waiting, KV cache 64%" in text
    assert "Qwen/Qwen3-4B: 2 ready BAAI/bge-m3: 1 loading" in text
    publish(spool, said.batch(engines=engines))
    text = verb(spool, "status", "candidates")[1]
    assert "2 engines: 2 ready; 2048 running" in text and "loading" not in text


def test_of_models_that_take_turns_it_is_said_who_waits_for_whom_since_when_and_until_when(
    spool: Spool, verb: Verb
) -> None:
    since, due = time.mktime((2026, 1, 2, 14, 2, 0, 0, 0, -1)), time.mktime((2026, 1, 2, 14, 17, 0, 0, 0, -1))
    standings: list[Any] = [
        {"model": "qwen", "state": "ready"},
        {"model": "gemma", "state": "waiting", "since": since, "turn_by": due, "behind": ["qwen"]},
        {"model": "llama", "state": "failed", "why": "llama cannot be loaded: it needs a licence"},
    ]
    assert show.turns(standings, due) == [
        "gemma waits since 14:02 for qwen, its turn by 14:17",
        "llama cannot be loaded: it needs a licence; try again with: inbox-daemon resume NAME",
    ]
    live(spool, standings=standings)
    assert "gemma waits since" in verb(spool, "status")[1]
    lanes = [
        {"model": "qwen", "total": 8, "done": 5, "in_flight": 3, "state": "ready", "since": None, "turn_by": None},
        {"model": "gemma", "total": 12, "done": 2, "in_flight": 0, "state": "waiting", "since": since, "turn_by": due},
    ]
    batch = said.batch(models=lanes)
    assert show.lanes(batch, due) == ["10 requests wait for gemma since 14:02, its turn by 14:17"]  # type: ignore[arg-type]


def test_a_batch_of_a_model_that_no_engine_serves_says_so(spool: Spool, verb: Verb, watched: Watched) -> None:
    live(spool)
    lost = said.batch(waiting_for_model="BAAI/bge-m3", model="BAAI/bge-m3", engines=[said.engine()])
    publish(spool, lost)
    words = "no engine here serves BAAI/bge-m3: it waits until one does"
    assert "no engine" in verb(spool, "status")[1] and "no engine" in verb(spool, "top", "--once")[1]
    text = verb(spool, "status", "candidates")[1]
    assert words in text and "Qwen" not in text
    first, *others = watched(lost)
    assert first.startswith("candidates: no engine, ") and first.endswith(words)
    assert "no engine" not in others[-1]


@pytest.mark.parametrize("arguments", [["status"], ["status", "candidates"], ["top", "--once"]], ids=" ".join)
def test_what_a_daemon_of_the_release_before_says_is_shown_without_its_engine(
    arguments: list[str], spool: Spool, verb: Verb
) -> None:
    (spool.daemons / "gpu-box-4700.json").write_bytes(orjson.dumps(said.of_schema_1(waiting={})))
    publish(spool, said.without(said.batch(engine={"state": "loading"}), "schema", "engines", "waiting_for_model"))
    code, text = verb(spool, *arguments)
    assert code == 0
    assert "7,003/50,000" in text and "7 min 45 s" in text and "loading" not in text


def test_programs_are_told_which_schema_they_read(spool: Spool, verb: Verb) -> None:
    live(spool)
    publish(spool, said.batch())
    told = orjson.loads(verb(spool, "status", "--json")[1])
    assert [told["schema"], told["daemons"][0]["schema"], told["batches"][0]["schema"]] == [3, 3, 3]


# -- errors


# -- how much room there is

LONG = "candidates-of-november-" + "x" * 80
REFUSED = {"data": [{"code": "empty_file", "message": "empty.jsonl: holds no request", "line": None}]}


def several(spool: Spool) -> None:
    live(spool)
    now = int(time.time())
    publish(spool, said.batch(LONG))
    publish(spool, said.batch("ended", status="completed", completed_at=now, requests_per_second=None))
    publish(spool, said.batch("empty", status="failed", failed_at=now, errors=REFUSED))


@pytest.mark.parametrize("arguments", [["status"], ["status", LONG], ["list"]], ids=" ".join)
def test_in_a_pipe_every_batch_has_one_line_however_long(
    arguments: list[str], spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    several(spool)
    monkeypatch.delenv("COLUMNS", raising=False)
    command = [sys.executable, "-m", "inbox_daemon", *arguments, "--spool", str(spool.root)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    [line] = [line for line in lines if line.startswith("candidates")]
    assert line.split()[:2] == [LONG, "in_progress"]
    assert "15 min" in line and "━" not in line


def test_on_a_terminal_what_there_is_no_room_for_gives_way(spool: Spool, capfd: pytest.CaptureFixture[str]) -> None:
    several(spool)
    statuses = published.statuses(spool)
    for width, heads in (
        (60, ["batch", "status", "done", "errors", "req/s", "left"]),
        (90, ["batch", "status", "done", "errors", "req/s", "left", "age"]),
        (200, ["batch", "status", "done", "errors", "req/s", "tok/s", "left", "age", "ended"]),
    ):
        console = Console(width=width, force_terminal=True, color_system=None)
        console.print(show.batches(statuses, time.time()))
        head, *lines = capfd.readouterr().out.splitlines()
        assert head.split() == heads
        assert max(map(len, lines)) <= width
        assert any("━" in line for line in lines) == (width == 200)
        assert len(lines) == 3 if width == 200 else len(lines) > 3


def test_why_a_batch_failed_or_stands_still_is_said_with_all_the_others(spool: Spool, verb: Verb) -> None:
    several(spool)
    publish(spool, said.batch("stuck", parked="engines died 5 times"))
    _, text = verb(spool, "status")
    assert "empty: failed: empty_file: empty.jsonl: holds no request" in text
    assert "stuck: parked: engines died 5 times; try again with: inbox-daemon resume stuck" in text


def test_of_a_cancelled_batch_what_never_ran_counts_neither_as_done_nor_as_an_error(spool: Spool, verb: Verb) -> None:
    counts = {"total": 1500, "completed": 213, "failed": 1287}
    publish(spool, said.batch(status="cancelled", cancelled_at=int(time.time()), request_counts=counts))
    _, text = verb(spool, "status")
    assert "cancelled 213/1,500" in text
    assert "1,287" not in text
    assert show.plain(published.statuses(spool)[0]).startswith(
        "candidates: cancelled, 213/1500 done, 1287 without an answer"
    )


def test_batches_that_run_are_shown_however_many_have_ended_since(spool: Spool, verb: Verb) -> None:
    now = int(time.time())
    publish(spool, said.batch("old", created_at=now - 10_000))
    for number in range(40):
        publish(spool, said.batch(f"b{number}", status="completed", completed_at=now, created_at=now - 100 + number))
    _, text = verb(spool, "status")
    assert "31 of 41 batches; inbox-daemon list has the others" in text
    assert "old in_progress" in text and "b10 completed" in text and "b9 completed" not in text


def faults(count: int) -> dict[str, Any]:
    return {"data": [{"line": n, "code": "invalid_json", "message": "cut", "param": None} for n in range(1, count + 1)]}


@pytest.mark.parametrize(
    ("listed", "failed", "state", "words"),
    [
        (7, 40, "completed", "line 5: invalid_json: cut … and 35 more; {}/errors.jsonl has all of them"),
        (7, 40, "in_progress", "line 5: invalid_json: cut … and 35 more; {}/errors.jsonl will have all of them"),
        (2, 3, "completed", "line 2: invalid_json: cut … and 1 more; {}/errors.jsonl has all of them"),
        (0, 3, "completed", "errors: 3; {}/errors.jsonl has all of them"),
        (5, 5, "completed", None),
        (1, 0, "failed", None),
        (0, 0, "completed", None),
    ],
)
def test_errors_that_are_not_listed_are_counted_and_where_they_are_is_said(
    listed: int, failed: int, state: str, words: str | None, spool: Spool, verb: Verb
) -> None:
    live(spool)
    counts = {"total": 50, "completed": 10, "failed": failed}
    publish(spool, said.batch(status=state, request_counts=counts, errors=faults(listed) if listed else None))
    text = verb(spool, "status", "candidates")[1]
    assert text.count("invalid_json") == min(listed, 5)
    if words:
        assert words.format(spool.outbox / "candidates") in text
    else:
        assert "errors.jsonl" not in text


def test_a_batch_that_was_refused_as_a_whole_has_its_unlisted_errors_where_it_says(
    start_daemon: Start, verb: Verb
) -> None:
    daemon = start_daemon(environment={"INBOX_DAEMON_INBOX__STRICT": "true"})
    daemon.drop("b.jsonl", batch_of(3) + b"one\n" * 7)
    daemon.finished("b")
    text = verb(Spool(daemon.spool), "status", "b")[1]
    assert f"more; {daemon.outbox('b')}/errors.jsonl has all of them" in text
    assert (daemon.outbox("b") / "errors.jsonl").exists()


# -- for programs


def test_a_file_that_waits_is_json_for_who_asks_for_json(spool: Spool, verb: Verb) -> None:
    (spool.inbox / "b.jsonl").write_bytes(batch_of(1))
    code, text = verb(spool, "status", "--json", "b")
    why = "no daemon runs on this spool: systemctl status inbox-daemon"
    assert (code, orjson.loads(text)) == (0, {"schema": SCHEMA, "name": "b", "status": "waiting", "why": why})
    live(spool)
    assert orjson.loads(verb(spool, "status", "--json", "b")[1])["why"] is None


def test_a_batch_that_is_nowhere_has_its_exit_status_with_json_too(spool: Spool, verb: Verb) -> None:
    assert verb(spool, "status", "--json", "b") == (4, f"inbox-daemon: no batch called b in {spool.outbox}")


@pytest.mark.parametrize("name", [[], ["b"]])
def test_json_that_repaints_is_wrong_usage(name: list[str], spool: Spool, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["status", *name, "--watch", "--json", "--spool", str(spool.root)])
    assert ended.value.code == 2
    assert "not allowed with" in capfd.readouterr().err


# -- rights


@pytest.fixture
def private() -> Iterator[Spool]:
    """A spool with a batch that runs, where everybody gets to; a file to submit lies beside it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        spool = made(Path(folder) / "spool")
        publish(spool, said.batch())
        (Path(folder) / "b.jsonl").write_bytes(batch_of(1))
        yield spool


@pytest.fixture
def somebody(verb: Verb) -> Verb:
    """Run a verb as a user who is no friend of the spool."""

    def run(spool: Spool, *arguments: object) -> tuple[int, str]:
        me = os.geteuid()
        os.seteuid(me or NOBODY)  # root may read everything
        try:
            return verb(spool, *arguments)
        finally:
            os.seteuid(me)

    return run


def beside(spool: Spool, arguments: list[str]) -> list[object]:
    return [spool.root.parent / one if one.endswith(".jsonl") else one for one in arguments]


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@needs_root
@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["status", "candidates"],
        ["status", "candidates", "--json"],
        ["status", "candidates", "--watch"],
        ["top", "--once"],
        ["cancel", "candidates"],
        ["priority", "candidates", "3"],
        ["submit", "b.jsonl"],
    ],
    ids=" ".join,
)
def test_a_spool_of_others_is_no_empty_spool(arguments: list[str], private: Spool, somebody: Verb) -> None:
    private.root.chmod(0o700)
    code, text = somebody(private, *beside(private, arguments))
    assert code == 1
    assert str(private.root) in text and RIGHTS in text and "Errno" not in text


@needs_root
def test_an_inbox_that_may_not_be_listed_is_no_inbox_without_the_file(private: Spool, somebody: Verb) -> None:
    private.inbox.chmod(0o700)
    for verb in ("status", "cancel"):
        code, text = somebody(private, verb, "b")
        assert code == 1 and f"{private.inbox}: you may not read it" in text and RIGHTS in text
    assert somebody(private, "status", "candidates")[0] == 0


@needs_root
@pytest.mark.parametrize("arguments", [["submit", "b.jsonl"], ["cancel", "candidates"]], ids=" ".join)
def test_an_inbox_that_may_not_be_written_to_is_named_with_who_may(
    arguments: list[str], private: Spool, somebody: Verb
) -> None:
    code, text = somebody(private, *beside(private, arguments))
    assert code == 1
    assert f"{private.inbox}: you may not write to it" in text and RIGHTS in text and "Errno" not in text


@needs_root
@pytest.mark.parametrize("what", ["folder", "receipt"])
def test_who_may_not_read_a_receipt_is_told_how_to(what: str, private: Spool, somebody: Verb) -> None:
    folder = private.outbox / "candidates"
    (folder / "receipt.json").write_text("{}")
    (folder if what == "folder" else folder / "receipt.json").chmod(0)
    code, text = somebody(private, "verify", folder)
    assert code == 1
    assert f"{folder}/receipt.json: you may not read it" in text and RIGHTS in text and "Errno" not in text


# -- what is not there


@pytest.mark.parametrize("arguments", [["status"], ["status", "b"], ["status", "--json"], ["top", "--once"]])
def test_a_spool_that_is_not_there_is_no_empty_spool(arguments: list[str], tmp_path: Path, verb: Verb) -> None:
    nowhere = Spool(tmp_path / "nosuch")
    why = "is not there: no daemon has run on this spool; name another with --spool"
    assert verb(nowhere, *arguments) == (1, f"inbox-daemon: {nowhere.root} {why}")
    (tmp_path / "nosuch").touch()
    assert verb(nowhere, *arguments) == (1, f"inbox-daemon: {nowhere.root} is no folder; name another with --spool")


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["top", "--once"]])
def test_a_spool_that_is_empty_is_no_fault(arguments: list[str], tmp_path: Path, verb: Verb) -> None:
    assert verb(Spool(tmp_path), *arguments)[0] == 0


@pytest.mark.parametrize("there", ["nothing", "file"])
def test_a_folder_to_verify_that_is_not_there_is_no_batch_that_runs(there: str, spool: Spool, verb: Verb) -> None:
    folder = spool.outbox / "mistyped"
    if there == "file":
        folder.touch()
    words = f"inbox-daemon: there is no folder {folder}: give the batch's own, OUTBOX/NAME"
    assert verb(spool, "verify", folder) == (1, words)


def test_who_cancels_a_batch_of_no_daemon_hears_so_at_once_and_the_file_stays(spool: Spool, verb: Verb) -> None:
    publish(spool, said.batch())
    code, text = verb(spool, "cancel", "candidates")
    left = spool.inbox / f"{said.batch()['id']}.cancel"
    why = "no daemon runs on this spool: systemctl status inbox-daemon"
    assert (code, text, left.exists()) == (1, f"{left} is there, but {why}", True)
