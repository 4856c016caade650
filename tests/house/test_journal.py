"""The journal as an interface: fields, message ids and their catalog, and what never gets into it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from running import ROOT, SETTINGS, Daemon, eventually, jsonl, request

from inbox_daemon.batch.errorlog import ONE_BY_ONE
from inbox_daemon.journal import Message
from inbox_daemon.privacy import cause, without_input

Start = Callable[..., Daemon]
CATALOG = ROOT / "systemd" / "inbox-daemon.catalog"
JOURNALD = Path("/lib/systemd/systemd-journald")


def test_the_catalog_explains_every_message_id_and_no_other() -> None:
    ids = re.findall(r"^-- ([0-9a-f]{32})$", CATALOG.read_text(), re.MULTILINE)
    assert sorted(ids) == sorted(message.value for message in Message)


def test_every_message_id_is_given_to_some_line() -> None:
    code = "".join(path.read_text() for path in (ROOT / "inbox_daemon").rglob("*.py"))
    assert [message for message in Message if f"tell(Message.{message.name}" not in code] == []


@pytest.mark.skipif(shutil.which("journalctl") is None, reason="needs systemd's journalctl")
def test_systemd_accepts_the_catalog_where_it_is_installed(tmp_path: Path) -> None:
    folder = tmp_path / "usr" / "local" / "lib" / "systemd" / "catalog"
    folder.mkdir(parents=True)
    (tmp_path / "var" / "lib" / "systemd" / "catalog").mkdir(parents=True)
    shutil.copy(CATALOG, folder)
    journalctl = ["journalctl", f"--root={tmp_path}"]
    subprocess.run([*journalctl, "--update-catalog"], check=True, capture_output=True)
    listed = subprocess.run([*journalctl, "--list-catalog"], check=True, capture_output=True, text=True).stdout
    assert {line.split()[0] for line in listed.splitlines()} == {message.value for message in Message}


PROMPT = "My name is Zaphod Beeblebrox and my salary is 42000"
REQUEST = orjson.dumps(request("r", PROMPT, model="m"))


@pytest.mark.parametrize(
    ("sentence", "logged"),
    [
        ("body.max_tokens: Input should be a valid integer", "body.max_tokens: Input should be a valid integer"),
        (f"cannot render {PROMPT} as chat", "cannot render … as chat"),
        ("no role 'Zaphod' is known", "no role '…' is known"),
        (
            "1 error\n  [type=x, input_value='Zaphod', input_type=str]",
            "1 error [type=x, input_value=…, input_type=str]",
        ),
        ("the model 'gpt' is not served, 'm' is", "the model 'gpt' is not served, 'm' is"),
        ("x" * 300, "x" * 200),
    ],
)
def test_an_errors_cause_is_logged_without_what_it_repeats_of_the_request(sentence: str, logged: str) -> None:
    assert cause(sentence, REQUEST) == logged


def test_of_a_request_too_large_to_look_through_nothing_is_repeated() -> None:
    assert cause("no 'Zaphod' here", orjson.dumps(request("r", "x" * 70_000))) == ""


def test_of_a_request_nested_too_deeply_to_look_through_nothing_is_repeated() -> None:
    assert cause("no 'Zaphod' here", b'{"custom_id":"r","body":' + b"[" * 1000 + b"]" * 1000 + b"}") == ""


def test_pydantics_quotations_are_cut_from_lines_of_vllm() -> None:
    line = "  Input should be a valid list [type=list_type, input_value='dear diary', input_type=str]"
    assert without_input(line) == "  Input should be a valid list [type=list_type, input_value=…, input_type=str]"


KINDS_OF_TEXT = {
    "messages": [{"role": "user", "content": "zarniwoop"}],
    "tools": [{"type": "function", "function": {"name": "zarniwoop", "description": "x"}}],
    "response_format": {"type": "json_schema", "json_schema": {"schema": {"properties": {"zarniwoop": {}}}}},
    "structured_outputs": {"choice": ["zarniwoop", "no"]},
    "stop": ["zarniwoop"],
    "bad_words": ["zarniwoop"],
    "logit_bias": {"zarniwoop": 1},
    "documents": [{"title": "zarniwoop"}],
    "user": "zarniwoop",
    "metadata": {"zarniwoop": "x"},
}


@pytest.mark.parametrize("kind", KINDS_OF_TEXT)
def test_no_text_of_a_request_is_in_its_logged_cause_however_short_and_wherever_it_stands(kind: str) -> None:
    line = orjson.dumps({"custom_id": "r", "body": {"model": "m", kind: KINDS_OF_TEXT[kind]}})
    logged = cause(f"Invalid {kind}: near zarniwoop at 3, unexpected (zarniwoop)", line)
    assert logged == f"Invalid {kind}: near … at 3, unexpected (…)"


def test_a_text_is_hidden_as_python_and_as_json_write_it_too() -> None:
    grammar = 'root ::= "ja"\nroot ::= "né"\t'
    line = orjson.dumps({"custom_id": "r", "body": {"structured_outputs": {"grammar": grammar}}})
    for quoted in (repr(grammar), orjson.dumps(grammar).decode(), grammar):
        assert "root" not in cause(f"cannot parse {quoted}", line)


def test_a_daemon_started_by_hand_speaks_to_its_terminal_whatever_it_inherits(start_daemon: Start) -> None:
    daemon = start_daemon(environment={"JOURNAL_STREAM": "8:12345"})
    assert re.search(r"^\d{4}-.* INFO +ready: ", daemon.text(), re.MULTILINE)


FORGED = "2026-01-01 00:00:00,000 CRITICAL alert: forged"


@pytest.mark.slow
def test_no_name_of_a_file_makes_a_line_of_the_log(start_daemon: Start) -> None:
    """Whatever the file is: a batch with a bad line, refused, waiting, no batch at all, a control file, a sidecar."""
    daemon = start_daemon()
    evil = f"x\n{FORGED}\r{FORGED}\u2028{FORGED}\n"
    good = jsonl([request("a")])
    names = {
        f"bad{evil}.jsonl": good + b'{"custom_id": "\\n' + FORGED.encode() + b'"}\n',
        f"refused{evil}.jsonl.gz": b"no gzip",
        f"cut{evil}.jsonl": good + b'{"custom_id":',
        f"hashed{evil}.jsonl": good,
        f"other{evil}.txt": b"",
        f"nobody{evil}.cancel": b"",
        f"bad{evil}.priority": b"no number",
    }
    (daemon.inbox / f"hashed{evil}.jsonl.sha256").write_text("no hash")
    (daemon.inbox / f"folder{evil}.jsonl").mkdir()
    for name, content in names.items():
        daemon.drop(name, content)
    said = [
        " line 2 ",
        "refused",
        "waiting for the rest",
        "holds none",
        "the inbox takes",
        "not a regular file",
        "thrown",
    ]
    eventually(lambda: all(words in daemon.text() for words in said), what="each has been said")
    daemon.stop()
    lines = daemon.text().split("\n")
    assert sum(FORGED in line for line in lines) > len(said)
    assert [line for line in lines if line.startswith(FORGED) or "\r" in line or "\u2028" in line] == []


def test_the_further_lines_of_a_message_are_seen_to_be_none_of_their_own(capfd: pytest.CaptureFixture[str]) -> None:
    told = "import logging; from inbox_daemon import journal; journal.set_up('info');"
    logged = f"logging.getLogger('inbox_daemon.x').warning('died: %s', 'one\\n{FORGED}')"
    subprocess.run([sys.executable, "-c", told + logged], check=True)
    [first, second] = capfd.readouterr().err.splitlines()
    assert first.endswith("died: one")
    assert second == f"    {FORGED}"


# A journald of its own, in namespaces of its own: what the daemon sends is read back with journalctl.
_WITH_JOURNALD = """
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal
/lib/systemd/systemd-journald &
until [ -S /run/systemd/journal/socket ]; do sleep 0.05; done
export JOURNAL_STREAM=$(stat --dereference --format=%d:%i /proc/self/fd/2)
for spool in well stuck; do
    "$1" -m inbox_daemon run --drain --spool "$2/$spool" --config "$2/$spool.toml" && status=0 || status=$?
    echo $status >"$2/$spool.status"
done
journalctl --sync || true
journalctl -D /run/log/journal -o json >"$2/journal.json"
"""

needs_journald = [
    pytest.mark.systemd,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.skipif(not JOURNALD.exists(), reason="needs systemd-journald"),
    pytest.mark.skipif(importlib.util.find_spec("systemd") is None, reason="needs systemd-python"),
]


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two daemons said: one that answers a batch with faulty lines, one whose engine never answers."""
    folder = tmp_path_factory.mktemp("journal")
    faulty = [PROMPT, request("wrong-method") | {"method": PROMPT}, *([1] * (ONE_BY_ONE + 5))]
    for name, requests in (
        ("well", [*[request(f"r{i}", PROMPT) for i in range(200)], *faulty]),
        ("stuck", [request("s", PROMPT)]),
    ):
        (folder / name / "inbox").mkdir(parents=True)
        (folder / name / "inbox" / f"{name}.jsonl").write_bytes(jsonl(requests))
    (folder / "well.toml").write_text(SETTINGS.format(kind="null"))
    stall = "stall_after = 1.0\nmax_deaths = 1\n[engine.null]\nrate = 0.001\n[inbox]"
    (folder / "stuck.toml").write_text(SETTINGS.format(kind="null").replace("[inbox]", stall))
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = [*unshare, "bash", "-c", _WITH_JOURNALD, "bash", sys.executable, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(folder / f"{name}.status").read_text() for name in ("well", "stuck")] == ["3\n", "1\n"]
    return [orjson.loads(line) for line in (folder / "journal.json").read_bytes().splitlines()]


def told(journal: list[dict[str, Any]], **fields: str) -> list[dict[str, Any]]:
    return [entry for entry in journal if all(entry.get(key) == value for key, value in fields.items())]


class TestInTheJournal:
    pytestmark = needs_journald

    def test_one_field_tells_the_story_of_one_batch(self, journal: list[dict[str, Any]]) -> None:
        story = [entry["MESSAGE_ID"] for entry in told(journal, INBOX_BATCH="well") if "MESSAGE_ID" in entry]
        steps = [Message.BATCH_CLAIMED, Message.BATCH_ACCEPTED, Message.BATCH_SEALED, Message.BATCH_COMPLETED]
        assert [id for id in story if id != Message.REQUEST_ERROR] == steps

    def test_each_error_names_line_request_and_code_and_many_are_one_line(self, journal: list[dict[str, Any]]) -> None:
        errors = told(journal, MESSAGE_ID=Message.REQUEST_ERROR.value)
        assert len(errors) == ONE_BY_ONE + 1
        assert (errors[1]["INBOX_LINE"], errors[1]["INBOX_REQUEST"]) == ("202", "wrong-method")
        assert "well.jsonl line 202 (wrong-method) ended as an error: invalid_method" in errors[1]["MESSAGE"]
        assert "well: 7 more requests ended as errors" in errors[-1]["MESSAGE"]
        assert {error["PRIORITY"] for error in errors} == {"4"}

    def test_an_engine_that_hangs_is_an_alert_an_autopsy_and_a_death(self, journal: list[dict[str, Any]]) -> None:
        kinds = [Message.ENGINE_STARTING, Message.ENGINE_READY, Message.ALERT_RAISED, Message.AUTOPSY]
        kinds += [Message.ENGINE_DIED, Message.BATCH_PARKED, Message.ALERT_RAISED]
        of_stuck = journal[journal.index(told(journal, INBOX_BATCH="stuck")[0]) :]
        ids = [entry["MESSAGE_ID"] for entry in of_stuck if entry.get("MESSAGE_ID") in set(kinds)]
        assert ids[: len(kinds)] == kinds
        [raised] = told(journal, INBOX_ALERT="NoProgress", MESSAGE_ID=Message.ALERT_RAISED.value)
        assert raised["PRIORITY"] == "2"
        [parked] = told(journal, INBOX_ALERT="BatchParked")
        assert parked["INBOX_BATCH"] == "stuck"
        assert told(journal, INBOX_ENGINE="1", MESSAGE_ID=Message.ENGINE_DIED.value)

    def test_no_prompt_is_in_any_field_of_any_entry(self, journal: list[dict[str, Any]]) -> None:
        assert len(journal) > 30
        for entry in journal:
            assert "Zaphod" not in orjson.dumps(entry).decode() and "Beeblebrox" not in str(entry), entry
