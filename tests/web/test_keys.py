"""API keys: the file of them, and the verb that keeps it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from inbox_daemon.cli import main
from inbox_daemon.errors import ConfigError
from inbox_daemon.web import keys
from inbox_daemon.web.keys import Key, Keys

SUM = "0" * 63


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INBOX_DAEMON_WEB__KEYS", str(tmp_path / "keys"))
    return tmp_path / "keys"


def test_a_key_is_shown_once_and_the_file_has_only_its_sum(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["web-key", "add", "laptop"]) == 0
    key = capsys.readouterr().out.strip()
    assert main(["web-key", "add", "boss", "--all"]) == 0
    assert len(key.removeprefix("sk-inbox-")) == 43, "32 bytes"
    assert key not in path.read_text() and key.removeprefix("sk-inbox-") not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o640
    assert Keys(path).of(key) == Key("laptop", keys.sum_of(key))
    capsys.readouterr()
    assert main(["web-key", "list"]) == 0
    assert capsys.readouterr().out == "boss  all\nlaptop\n"


def test_a_key_that_is_revoked_opens_nothing_and_the_others_go_on(path: Path) -> None:
    first, second = keys.add(path, "first", every=False), keys.add(path, "second", every=True)
    known = Keys(path)
    assert main(["web-key", "revoke", "first"]) == 0
    assert known.of(first) is not None and known.refresh() and known.of(first) is None
    assert known.of(second) == Key("second", keys.sum_of(second), True)
    assert not known.refresh()
    assert main(["web-key", "revoke", "first"]) == 4
    assert main(["web-key", "revoke"]) == 2


def test_a_file_keeps_its_mode_when_a_key_comes_or_goes(path: Path) -> None:
    keys.add(path, "first", every=False)
    path.chmod(0o600)
    keys.add(path, "second", every=False)
    keys.revoke(path, "first")
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("content", "mode", "needle"),
    [
        (f"{SUM}0  a\n", 0o644, "its mode is 0644.*chmod 0640"),
        (f"{SUM}0  a\n", 0o660, "its mode is 0660"),
        (f"{SUM}  a\n", 0o640, "line 1 is not"),
        (f"# x\n\n{SUM}0  a  everything\n", 0o640, "line 3 is not"),
        (f"{SUM}0  a\n{SUM}1  a\n", 0o640, "line 2 .* for the second time"),
        (f"{SUM}0  a\n{SUM}0  b\n", 0o640, "line 2 .* for the second time"),
        (f"{SUM}0  -a\n", 0o640, "line 1 is not"),
        (None, 0o640, "there is no such file; .*web-key add NAME"),
    ],
)
def test_a_keys_file_that_is_wrong_is_exit_78_with_the_next_step(
    path: Path, content: str | None, mode: int, needle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(ConfigError, match=needle):
        Keys(path)
    assert main(["web-key", "list"]) == 78
    assert str(path) in capsys.readouterr().err


def test_what_is_no_plain_file_of_keys_is_neither_followed_nor_waited_for(path: Path) -> None:
    (path.parent / "other").write_text(f"{SUM}0  a\n")
    path.symlink_to(path.parent / "other")
    with pytest.raises(ConfigError, match="cannot be read"):
        Keys(path)
    path.unlink()
    os.mkfifo(path, 0o640)
    with pytest.raises(ConfigError, match="no plain file"):
        Keys(path)


def test_a_file_that_has_become_wrong_leaves_the_keys_in_force_and_is_said_once(path: Path) -> None:
    key = keys.add(path, "a", every=False)
    known = Keys(path)
    path.write_text("nonsense\n")
    with pytest.raises(ConfigError, match="line 1"):
        known.refresh()
    assert known.of(key) and not known.refresh()


@pytest.mark.parametrize("name", ["", "-a", "a b", "a\n", "ä", "a" * 65, "../a"])
def test_a_name_that_would_be_none_in_the_file_is_refused(path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is no name for a key"):
        keys.add(path, name, every=False)
    assert not path.exists()


def test_a_name_is_given_once_and_without_web_keys_there_is_no_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys.add(path, "a", every=False)
    assert main(["web-key", "add", "a"]) == 78
    assert "has a key called a" in capsys.readouterr().err
    monkeypatch.delenv("INBOX_DAEMON_WEB__KEYS")
    assert main(["web-key", "add", "b"]) == 78
    assert "web.keys is not set" in capsys.readouterr().err


@pytest.mark.slow
def test_no_other_verb_waits_for_a_web_framework() -> None:
    """`parser()` reads every verb's file, as --help and completion do."""
    code = "import sys; from inbox_daemon.cli import parser; parser(); print(*sys.modules)"
    known = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"fastapi", "starlette", "uvicorn", "jinja2"} & set(known) == set()
