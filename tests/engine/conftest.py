"""Starting a daemon whose worker hosts `frail_host`, which dies on order."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from running import ROOT, Daemon

Start = Callable[..., Daemon]
HERE = ROOT / "tests"
STALL_AFTER, LOAD_TIMEOUT = 6, 20  # seconds; far more than a step of frail_host takes on a busy machine

# Python imports a sitecustomize from its path at every start; this one has the worker find another host.
FINDS_FRAIL_HOST = f"""
import importlib.util, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "inbox_daemon.engine.worker.vllm_host":
            return importlib.util.spec_from_file_location(name, {str(HERE / "frail_host.py")!r})
sys.meta_path.insert(0, Finder())
"""


@pytest.fixture
def frail_worker(tmp_path: Path) -> dict[str, str]:
    """The environment in which a worker hosts `frail_host`; `loads` in FRAIL says what the first starts die of."""
    folder = tmp_path / "frail"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(FINDS_FRAIL_HOST)
    path = os.pathsep.join([str(folder), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    return {"PYTHONPATH": path, "FRAIL": str(folder)}


@pytest.fixture
def start_frail(start_daemon: Start, frail_worker: dict[str, str]) -> Callable[..., Daemon]:
    """Start a daemon whose worker hosts `frail_host`; `loads` says what the first starts die of."""

    def start(*loads: str, prefix: Sequence[str] = (), **environment: str) -> Daemon:
        (Path(frail_worker["FRAIL"]) / "loads").write_text("\n".join(loads))
        settings = frail_worker | {
            "INBOX_DAEMON_ENGINE__IN_FLIGHT": "4",
            "INBOX_DAEMON_ENGINE__STALL_AFTER": str(STALL_AFTER),
            "INBOX_DAEMON_ENGINE__LOAD_TIMEOUT": str(LOAD_TIMEOUT),
        }
        options = {"arguments": ["--model", "frail"], "environment": settings | environment, "prefix": prefix}
        return start_daemon(kind="vllm", **options)

    return start
