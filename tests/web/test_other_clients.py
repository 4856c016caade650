"""Clients that others wrote, as they are, against the web process and a daemon: by hand, since each is installed.

    tools/test tests/web/test_other_clients.py -m long -s

Each has an environment of its own, in .venv/clients of the checkout (CLIENTS names another folder): they want versions
of OpenAI's library that exclude each other. What they are made of is in tests/clients.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from running import ROOT, Daemon, batch_of
from webs import Web

CLIENTS = ROOT / "tests" / "clients"
HOMES = Path(os.environ.get("CLIENTS", ROOT / ".venv" / "clients"))

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def installed(name: str) -> Path:
    """The Python of the environment that tests/clients/NAME.txt describes."""
    home = HOMES / name
    if not (home / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        pip = [home / "bin" / "python", "-m", "pip", "install", "-q", "-r", CLIENTS / f"{name}.txt"]
        subprocess.run(pip, check=True)
        (home / "complete").touch()
    return home / "bin" / "python"


def node(name: str) -> Path:
    """The folder in which tests/clients/NAME.json is installed."""
    home = HOMES / name
    if not (home / "complete").exists():
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(CLIENTS / f"{name}.json", home / "package.json")
        subprocess.run(["npm", "install", "--silent"], cwd=home, check=True)
        (home / "complete").touch()
    return home


def go(command: list[object], start_daemon: Callable[..., Daemon], folder: Path) -> str:
    """Run a client against a daemon and a web process of its own; return what it says at its end."""
    daemon = start_daemon()
    with closing(Web(daemon.spool, folder / "web.log")) as web:
        given = [{"URL": f"{web.url}/v1"}.get(str(word), str(word)) for word in command]
        done = subprocess.run(given, check=False, capture_output=True, text=True, timeout=300, cwd=folder)
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}\n{web.text()[-3000:]}"
        answered = [line for line in web.text().splitlines() if ": 5" in line]
        assert answered == [], "the web process failed"
    print(done.stdout.strip().splitlines()[-1], f"({web.text().count(' in ')} requests that change something)")
    return done.stdout


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(batch_of(20, model="m"))
    return path


@pytest.mark.parametrize("version", ["openai-2.30"])
def test_an_older_client_of_openais_works(
    start_daemon: Callable[..., Daemon], tmp_path: Path, requests: Path, version: str
) -> None:
    client = [installed(version), CLIENTS / "openai_client.py", "URL", requests]
    assert "20 answers" in go(client, start_daemon, tmp_path)


def test_openais_client_for_node_works(start_daemon: Callable[..., Daemon], tmp_path: Path, requests: Path) -> None:
    script = shutil.copy(CLIENTS / "node_client.mjs", node("node"))  # it looks for packages from where it lies
    assert "20 answers" in go(["node", script, "URL", requests], start_daemon, tmp_path)


def test_litellm_works_by_both_of_its_providers(
    start_daemon: Callable[..., Daemon], tmp_path: Path, requests: Path
) -> None:
    said = go([installed("litellm"), CLIENTS / "litellm_client.py", "URL", requests], start_daemon, tmp_path)
    assert "as openai: 20 answers" in said and "as hosted_vllm: 20 answers" in said


def test_an_evaluation_of_inspects_runs_as_a_batch(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    client = [installed("inspect"), CLIENTS / "inspect_client.py", "URL", tmp_path / "logs"]
    assert "20 samples" in go(client, start_daemon, tmp_path)


def test_single_calls_become_batches_by_autobatcher(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    client = [installed("autobatcher"), CLIENTS / "autobatcher_client.py", "URL"]
    assert "8 answers" in go(client, start_daemon, tmp_path)
