"""Completion as shells do it: bash reads the script, and is asked what may stand where the cursor is."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT

from inbox_daemon.cli import parser
from inbox_daemon.cli.completion import names, script
from inbox_daemon.layout import Spool

# What bash does when somebody presses the tabulator.
ASK = """
source {script}
function=$(complete -p inbox-daemon | sed -E 's/.* -F ([^ ]+) .*/\\1/')
COMP_WORDS=({words}) COMP_CWORD={last} COMPREPLY=()
"$function"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    outbox = tmp_path / "spool/outbox"
    outbox.mkdir(parents=True)
    return outbox


def offered(tmp_path: Path, *words: str) -> list[str]:
    """What bash offers for the last of these words, with `inbox-daemon` and its spool in the environment."""
    (tmp_path / "completion").write_text(script("bash"))
    command = tmp_path / "bin/inbox-daemon"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m inbox_daemon "$@"\n')
    command.chmod(0o755)
    env = os.environ | {"INBOX_DAEMON_SPOOL": str(tmp_path / "spool"), "PYTHONPATH": str(ROOT)}
    env["PATH"] = f"{command.parent}:{env['PATH']}"
    asked = ASK.format(script=tmp_path / "completion", words=shlex.join(words), last=len(words) - 1)
    done = subprocess.run(["bash", "-c", asked], env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_verbs_flags_files_names_of_batches_and_models_are_completed(
    tmp_path: Path, outbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("november", "november.2", "december"):
        (outbox / name).mkdir()
    (tmp_path / "batch.jsonl").touch()
    assert offered(tmp_path, "inbox-daemon", "pa") == ["pause"]
    assert offered(tmp_path, "inbox-daemon", "status", "--js") == ["--json"]
    assert offered(tmp_path, "inbox-daemon", "submit", "ba") == ["batch.jsonl"]
    assert offered(tmp_path, "inbox-daemon", "pause", "nov") == ["november", "november.2"]
    (tmp_path / "c.toml").write_text("[model.'org/one']\n[model.two]\n")
    monkeypatch.setenv("INBOX_DAEMON_CONFIG", str(tmp_path / "c.toml"))
    assert offered(tmp_path, "inbox-daemon", "models", "check", "o") == ["org/one"]


def test_a_batch_whose_name_a_shell_would_run_is_not_offered(tmp_path: Path, outbox: Path) -> None:
    """bash expands the words it is given to choose from, and who drops a file chooses its batch's name."""
    for name in ("$(touch pwned)", "`touch pwned`", "a b", "-rf", "plain-1_ä"):
        (outbox / name).mkdir()
    assert names(Spool(outbox.parent)) == ["plain-1_ä"]
    assert offered(tmp_path, "inbox-daemon", "pause", "") == ["plain-1_ä"]
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_verb_is_in_every_shells_script(shell: str) -> None:
    said = script(shell)
    (verbs,) = [action.choices for action in parser()._actions if action.dest == "verb"]
    assert verbs is not None
    assert [verb for verb in verbs if verb not in said] == []
