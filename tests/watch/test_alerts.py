"""Alerts and autopsies as users and operators get them: files, the daemon's own view, the command they configured."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from engines import engine_view
from running import Daemon, batch_of, eventually, jsonl, lines, request

from inbox_daemon import cli
from inbox_daemon.layout import Spool
from inbox_daemon.records import Alert, AlertName, Severity
from inbox_daemon.spool import alertlog, published
from inbox_daemon.watch.alerts import Edge
from inbox_daemon.watch.announce import Announcer

Start = Callable[..., Daemon]

# An engine that takes ten minutes for its first answer, and patience for a second.
HANGS = {"INBOX_DAEMON_ENGINE__NULL__RATE": "0.001", "INBOX_DAEMON_ENGINE__STALL_AFTER": "1.0"}
TWO = {"INBOX_DAEMON_ENGINE__NULL__ENGINES": "2", "INBOX_DAEMON_ENGINE__IN_FLIGHT": "100"}  # 50 for each


def said(daemon: Daemon) -> dict[str, Any]:
    """What this daemon says of itself."""
    return next((one for one in published.daemons(Spool(daemon.spool)) if one["pid"] == daemon.process.pid), {})


def raised(daemon: Daemon) -> list[str]:
    return [alert["name"] for alert in said(daemon).get("alerts", [])]


def test_a_line_that_a_full_disk_cut_short_spoils_no_later_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    alertlog.append(spool, {"alert": "DiskHigh", "state": "raised"})
    with spool.alerts.open("ab") as file:
        file.write(b'{"alert":"DiskWillFill","sta')
    for state in ("cleared", "raised"):
        alertlog.append(spool, {"alert": "DiskHigh", "state": state})
    first, torn, *later = spool.alerts.read_bytes().splitlines()
    assert torn == b'{"alert":"DiskWillFill","sta'
    assert [orjson.loads(line)["state"] for line in (first, *later)] == ["raised", "cleared", "raised"]


@pytest.mark.slow
def test_an_engine_that_hangs_is_an_alert_and_leaves_an_autopsy_without_prompts(start_daemon: Start) -> None:
    daemon = start_daemon(environment=HANGS)
    daemon.drop("b.jsonl", jsonl([request(f"r{i}", "a secret prompt") for i in range(120)]))
    eventually(lambda: "NoProgress" in raised(daemon), 20, "the alert in the daemon's own view")
    autopsy = daemon.outbox("b") / "autopsy-1.txt"
    eventually(autopsy.exists, 20, "the autopsy")
    text = autopsy.read_text()
    assert "120 requests in flight and no progress for" in text
    assert "120 requests of this batch, the first 100:\n  line 1: r0\n  line 2: r1\n" in text
    assert "secret" not in text
    eventually(lambda: engine_view(daemon)["starts"] >= 2, 20, "another engine")
    assert engine_view(daemon)["deaths"] >= 1

    # With nothing left to do, nothing is stuck any more.
    (daemon.inbox / "b.cancel").touch()
    assert daemon.finished("b")["status"] == "cancelled"
    eventually(lambda: "NoProgress" not in raised(daemon), 20, "the alert is cleared")
    [first, last] = [one for one in lines(daemon.spool / "alerts.jsonl") if one["alert"] == "NoProgress"]
    assert (first["state"], first["severity"], last["state"]) == ("raised", "critical", "cleared")
    assert last["lasted"] >= 0.0
    assert daemon.text().count("alert: NoProgress: ") == daemon.text().count("alert cleared: NoProgress: ") == 1


def test_of_two_engines_that_hang_each_is_an_alert_and_leaves_an_autopsy_of_its_own_requests(
    start_daemon: Start,
) -> None:
    daemon = start_daemon(environment=HANGS | TWO)
    daemon.drop("b.jsonl", batch_of(150))
    autopsies = [daemon.outbox("b") / f"autopsy-{number}.txt" for number in (1, 2)]
    eventually(lambda: all(path.exists() for path in autopsies), 30, "an autopsy of each")
    texts = [path.read_text() for path in autopsies]
    assert sorted(n for text in texts for n in re.findall(r"^engine: (\d)$", text, re.MULTILINE)) == ["1", "2"]
    named = [re.findall(r"^  line \d+: (r\d+)$", text, re.MULTILINE) for text in texts]
    assert [len(ids) for ids in named] == [50, 50] and not set(named[0]) & set(named[1])
    told = [one for one in lines(daemon.spool / "alerts.jsonl") if one["alert"] == "NoProgress"][:2]
    assert [one["state"] for one in told] == ["raised", "raised"]
    assert sorted(one["text"].split(":")[0] for one in told) == ["engine 1", "engine 2"]


def command(*words: str) -> str:
    return f"[alerts]\ncommand = {orjson.dumps(words).decode()}\n"


def test_the_command_gets_each_alert_as_json_on_its_stdin(start_daemon: Start, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    script = f"cat >>{heard}; echo >>{heard}; echo no such channel >&2; exit 3"
    daemon = start_daemon(settings=command("sh", "-c", script), environment=HANGS)
    daemon.drop("b.jsonl", batch_of(3))
    eventually(heard.exists, 20, "the command was run")

    def stall() -> dict[str, Any]:
        whole = heard.read_bytes().rpartition(b"\n")[0].split(b"\n")
        alerts = [orjson.loads(line) for line in whole if line]
        return next((one for one in alerts if one["alert"] == "NoProgress"), {})

    first = eventually(stall, 20, "an alert")
    assert (first["state"], first["batch"]) == ("raised", None)
    assert "no progress" in first["text"]
    eventually(lambda: "ended with 3: no such channel" in daemon.text(), 20, "its failure in the log")


@pytest.mark.slow
@pytest.mark.parametrize("words", [("sleep", "600"), ("/no/such/program",)])
def test_a_command_that_hangs_or_is_missing_holds_nobody_up(start_daemon: Start, words: tuple[str, ...]) -> None:
    daemon = start_daemon(settings=command(*words), environment=HANGS)
    daemon.drop("b.jsonl", batch_of(3))
    eventually(lambda: engine_view(daemon).get("starts", 0) >= 3, 60, "the engine was replaced twice")
    assert daemon.stop() == 0


def test_a_command_that_cannot_be_run_is_said_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Announcer(Spool(tmp_path), ["sh", "-c", "true"])
    assert not caplog.records
    Announcer(Spool(tmp_path), ["nosuchprogram"])
    assert "alerts.command: nosuchprogram: no such program" in caplog.text


def test_a_test_alert_has_the_form_of_every_other_and_says_how_the_command_ended(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    heard, config = tmp_path / "heard", tmp_path / "c.toml"

    def tested(*words: str) -> tuple[int, str]:
        config.write_text(command(*words) if words else "")
        status = cli.main(["alert", "--test", "--config", str(config)])
        said = capfd.readouterr()
        return status, said.out + said.err

    status, said = tested("sh", "-c", f"cat > {heard}")
    assert status == 0 and "took the test alert within 0 s" in said
    spool = Spool(tmp_path)
    Announcer(spool, []).say([Edge(Alert(AlertName.DISK_HIGH, Severity.WARNING, 0.0, "full"), raised=True)], 0.0)
    assert orjson.loads(heard.read_bytes()).keys() == orjson.loads(spool.alerts.read_bytes()).keys()
    status, said = tested("sh", "-c", "echo no such channel >&2; exit 3")
    assert status == 1 and "no such channel" in said and "ended with 3" in said
    assert tested("/no/such/program") == (
        78,
        "inbox-daemon: alerts.command: /no/such/program: No such file or directory\n",
    )
    assert tested()[0] == 78


def test_a_command_that_a_reload_takes_away_is_not_run_for_what_waited(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    telling = Announcer(spool, ["sleep", "600"])
    alert = Alert(AlertName.DISK_HIGH, Severity.WARNING, 0.0, "full")
    for _ in range(6):
        telling.say([Edge(alert, raised=True)], 0.0)
    telling.look(0.0)
    telling.use([])
    telling.look(31.0)  # those that hang are killed, and there would be room for the others
    eventually(lambda: telling.look(32.0) or not telling._commands.busy)
    telling.finish(1.0)


@pytest.mark.slow
def test_a_daemon_with_two_engines_says_what_each_of_them_does(start_daemon: Start) -> None:
    daemon = start_daemon(environment=TWO | {"INBOX_DAEMON_ENGINE__NULL__RATE": "300"})
    daemon.drop("b.jsonl", batch_of(2400))
    working = lambda: [one["engine"] for one in said(daemon).get("engines", ()) if 0 < one["in_flight"] <= 50]  # noqa: E731
    eventually(lambda: working() == [1, 2], 30, "both work")
    daemon.finished("b")
    view = eventually(lambda: v if (v := said(daemon))["requests"]["completed"] == 2400 else None, 30, "all counted")
    engines = view["engines"]
    assert [(one["engine"], one["state"], one["start"], one["deaths"]) for one in engines] == [
        (1, "ready", 1, 0),
        (2, "ready", 2, 0),
    ]
    assert sum(one["output_tokens"] for one in engines) == 2400
    assert min(one["output_tokens"] for one in engines) > 600
    assert [one["engine"] for one in daemon.status("b")["engines"]] == [1, 2]


def test_the_daemon_says_what_it_has_recorded_and_what_its_host_has_left(start_daemon: Start) -> None:
    daemon = start_daemon()
    daemon.drop("b.jsonl", batch_of(50) + b"{}\n")
    daemon.finished("b")
    view = eventually(lambda: v if (v := said(daemon))["requests"]["completed"] == 50 else None, 30, "50 counted")
    assert view["requests"]["failed"] == 0  # a faulty line was no request
    assert view["requests"]["output_tokens"] == 50
    [engine] = view["engines"]
    assert engine | {"engine": 1, "start": 1, "starts": 1, "deaths": 0, "in_flight": 0} == engine
    assert (engine["state"], engine["output_tokens"]) == ("ready", 50)
    assert 0 <= view["requests"]["progress_at"] - engine["since"] < 60
    assert 0.0 < view["host"]["memory_used_ratio"] < 1.0 and view["host"]["disk_free_bytes"] > 0
    assert view["gpus"]["state"] in ("absent", "no_driver", "ok")
    assert view["alerts"] == []
