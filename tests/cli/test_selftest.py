"""`inbox-daemon selftest` as users run it: what it says of a daemon that is well, and of one that is not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import orjson
import psutil
import pytest
from running import SETTINGS, VLLM_ENVIRONMENT, VLLM_SETTINGS, Daemon, batch_of, eventually

from inbox_daemon import config
from inbox_daemon.cli.selftest import rig, unshared
from inbox_daemon.cli.selftest.rig import Rig, TooLate
from inbox_daemon.cli.selftest.trials import (
    CHECKS,
    FAILS,
    HOLDS,
    NOT_APPLICABLE,
    NOT_CHECKED,
    Check,
    Row,
    _hurt,
    problems,
)
from inbox_daemon.layout import Published
from inbox_daemon.spool.shapes import BatchObject

pytestmark = pytest.mark.slow

OF_ENGINE = ("kill-core", "kill-worker", "hang-core", "hang-worker")


def test_its_daemons_call_nobody_and_leave_the_services_metrics_alone(tmp_path: Path) -> None:
    mine = tmp_path / "config.toml"
    mine.write_text('[alerts]\ncommand = ["page"]\n[metrics]\nport = 9109\ntextfile = "/var/lib/x.prom"\n')
    read = config.load(mine, rig._environment(100, tmp_path), {})
    assert (read.alerts.command, read.metrics.port, read.metrics.textfile) == ((), 0, "")


class Selftest:
    """One `inbox-daemon selftest` process on a spool under `folder`, with temporary files of its own."""

    def __init__(self, folder: Path, *arguments: str, kind: str = "null", **environment: str) -> None:
        self.spool = folder / "spool"
        self.spool.mkdir()
        self.temporary = Path(tempfile.mkdtemp(prefix="selftest-"))  # vLLM's sockets need a shorter path than `folder`
        config = folder / "config.toml"
        config.write_text(SETTINGS.format(kind=kind) + (VLLM_SETTINGS if kind == "vllm" else ""))
        command = [
            sys.executable,
            "-m",
            "inbox_daemon",
            "selftest",
            "--spool",
            str(self.spool),
            "--config",
            str(config),
        ]
        # Tests run in the background have SIGINT ignored, and so would this; a person at a terminal has not.
        self.process = subprocess.Popen(
            ["/usr/bin/env", "--default-signal=INT", *command, *arguments],
            stdout=subprocess.PIPE,
            env=os.environ | VLLM_ENVIRONMENT | {"TMPDIR": str(self.temporary)} | environment,
        )

    def __enter__(self) -> Selftest:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.terminate()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        shutil.rmtree(self.temporary)

    def told(self) -> dict[str, Any]:
        """What --json says at the end."""
        assert self.process.stdout is not None
        told = orjson.loads(self.process.stdout.read())
        self.process.wait()
        return dict(told)

    def processes(self) -> list[psutil.Process]:
        """Its daemons: whatever else has its spool in the command."""
        words = ("run", str(self.spool))
        return [
            one
            for one in psutil.process_iter(["cmdline"])
            if all(any(word in part for part in one.info["cmdline"] or ()) for word in words)
        ]

    def leaves_nothing(self) -> bool:
        return not (self.processes() or list(self.spool.iterdir()) or list(self.temporary.iterdir()))


def verdicts(told: dict[str, Any]) -> dict[str, str]:
    return {row["check"]: row["verdict"] for row in told["checks"]}


def restarts(told: dict[str, Any]) -> dict[str, int]:
    return {row["check"]: row["engine_restarts"] for row in told["checks"]}


@pytest.fixture(scope="module")
def own_mounts(tmp_path_factory: pytest.TempPathFactory) -> None:
    mounts, why = unshared.own_mounts(tmp_path_factory.mktemp("mounts"))
    if not mounts:
        pytest.skip(why)


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Selftest, Selftest]]:
    """One as users run it, and one of two models that finds no unshare: side by side, since both spend their time
    waiting.
    """
    models = {"INBOX_DAEMON_ENGINE__MODEL": "org/a", "INBOX_DAEMON_MODEL": '{"org/b" = {}}'}
    thorough, without, empty = (tmp_path_factory.mktemp(name) for name in ("thorough", "without", "empty"))
    with (
        Selftest(thorough, "--json") as first,
        Selftest(without, "--json", "--requests", "20", PATH=str(empty), **models) as second,
    ):
        yield first, second


def test_where_no_disk_can_be_filled_that_check_is_not_passed(at_once: tuple[Selftest, Selftest]) -> None:
    _, selftest = at_once
    told = selftest.told()
    assert verdicts(told)["disk-full"] == NOT_CHECKED
    assert "no unshare" in told["checks"][-1]["notes"][0]
    assert (verdicts(told)["plain"], verdicts(told)["kill-daemon"]) == (HOLDS, HOLDS)
    assert (selftest.process.returncode, told["held"]) == (1, False)


def test_a_host_that_forbids_mounts_is_a_reason_and_no_error(tmp_path: Path) -> None:
    forbid = 'echo 0 > /proc/sys/user/max_mnt_namespaces && exec "$@"'
    folder = f"__import__('pathlib').Path({str(tmp_path)!r})"
    ask = f"from inbox_daemon.cli.selftest import unshared; print(unshared.own_mounts({folder}))"
    inside = ["unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh", sys.executable, "-c", ask]
    done = subprocess.run(inside, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("([], ") and "unshare failed" in done.stdout


def test_a_daemon_that_does_not_start_fails_the_first_check_and_leaves_the_others_unchecked(tmp_path: Path) -> None:
    with Selftest(tmp_path, "--json", INBOX_DAEMON_ENGINE__KIND="vllm") as selftest:
        told = selftest.told()
        assert verdicts(told) == {check.key: NOT_CHECKED for check in CHECKS} | {"plain": FAILS}
        (note,) = told["checks"][0]["notes"]
        assert "exit status 78" in note and "engine.model is not set" in note
        assert selftest.process.returncode == 1
        assert list(selftest.temporary.iterdir()) == [Path(told["log"])]
        assert "engine.model is not set" in Path(told["log"]).read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ended_in_mid_batch_it_leaves_no_process_and_no_file(tmp_path: Path, number: signal.Signals) -> None:
    with Selftest(tmp_path) as selftest:
        eventually(lambda: list(selftest.spool.glob("*/plain/spool/outbox/plain/parts/*")), 60, "a batch is running")
        assert selftest.processes()
        selftest.process.send_signal(number)
        assert selftest.process.wait(60) == 130
        assert selftest.leaves_nothing()


def test_an_answer_that_is_lost_replaced_or_out_of_order_is_found(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    original = tmp_path / "b.jsonl"
    original.write_bytes(batch_of(10))
    daemon = start_daemon()
    daemon.drop("b.jsonl", original.read_bytes())
    daemon.finished("b")
    folder = Published(daemon.outbox("b"))
    results = folder.results.read_bytes().splitlines()
    assert problems(folder, original, set(results[:5])) == []

    other = results[3].replace(b"null engine", b"another answer")
    assert problems(folder, original, {results[0], other}) == [
        "1 answers that were there before are lost or were replaced"
    ]

    folder.results.write_bytes(b"\n".join([results[1], results[0], *results[2:], b""]))
    assert any("in the input's order" in problem for problem in problems(folder, original, set()))
    folder.results.write_bytes(b"\n".join([*results[1:], b""]))
    found = " ".join(problems(folder, original, set(results)))
    assert "lines for 9 of them" in found and "in the input's order" in found and "1 answers" in found


def test_every_check_that_applies_to_the_null_engine_holds(
    own_mounts: None, at_once: tuple[Selftest, Selftest]
) -> None:
    selftest, _ = at_once
    told = selftest.told()
    applies = {check.key: NOT_APPLICABLE if check.key in OF_ENGINE else HOLDS for check in CHECKS}
    assert verdicts(told) == applies, told
    assert (selftest.process.returncode, told["held"], told["on_spool_disk"]) == (0, True, True)
    assert all(row["answers"] == row["requests"] == 60 for row in told["checks"] if row["verdict"] == HOLDS)
    assert selftest.leaves_nothing()


@pytest.mark.vllm
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_with_the_real_engine_every_check_holds_and_each_engine_that_was_ended_is_replaced_once(
    own_mounts: None, tmp_path: Path, tiny_model: Path
) -> None:
    with Selftest(tmp_path, "--json", "--model", str(tiny_model), kind="vllm") as selftest:
        told = selftest.told()
        assert verdicts(told) == {check.key: HOLDS for check in CHECKS}, told
        replaced = (*OF_ENGINE, "kill-daemon")
        assert restarts(told) == {check.key: int(check.key in replaced) for check in CHECKS}
        assert selftest.process.returncode == 0
        assert selftest.leaves_nothing()


class Hasty(Rig):
    """A rig without a daemon, on which batches are over before they have a middle, but for the last one."""

    def __init__(self, over: int) -> None:
        self.over, self.dropped = over, list[str]()

    def drop(self, name: str) -> None:
        self.dropped.append(name)

    def middle(self, name: str) -> set[bytes]:
        if len(self.dropped) <= self.over:
            raise TooLate
        return {name.encode()}

    def finished(self, name: str) -> BatchObject:
        return {"id": "", "name": name, "status": "completed", "created_at": 0, "request_counts": {}}  # type: ignore[typeddict-item]


def test_a_batch_that_is_over_before_it_could_be_hurt_is_followed_by_another_one_and_counts_for_nothing() -> None:
    check, row = Check("kill", "", lambda it, name: f"{name} was hurt"), Row("kill", "")
    rig = Hasty(over=2)
    assert _hurt(check, rig, row)[:2] == ("kill-3", {b"kill-3"})
    assert (rig.dropped, row.notes) == (["kill", "kill-2", "kill-3"], ["kill-3 was hurt"])
    with pytest.raises(TooLate, match="give more --requests"):
        _hurt(check, Hasty(over=3), row)


def test_a_batch_is_judged_once_it_has_its_receipt_which_comes_after_its_last_status(tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    mine = Rig(tmp_path / "rig", tmp_path / "temporary", [], 1, [])
    folder = mine.spool.batch("b")
    folder.dir.mkdir(parents=True)
    folder.status.write_bytes(orjson.dumps({"id": "batch_1", "name": "b", "status": "completed"}))
    found: list[str] = []
    judge = Thread(target=lambda: found.append(mine.finished("b")["status"]))
    judge.start()
    try:
        judge.join(0.3)
        assert judge.is_alive() and not found
    finally:
        folder.receipt.write_bytes(b"{}")
        judge.join(30)
    assert found == ["completed"]
