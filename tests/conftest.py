"""Fixtures that many tests share: a spool, daemons as real processes, the tiny model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from crashing import workers
from hypothesis import HealthCheck, settings
from mounts import Mounts
from passes import Passes
from running import ROOT, Daemon

# A busy machine makes no example wrong.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Start daemons on a spool under tmp_path (or another); whatever is left of them is killed at the end."""
    started: list[Daemon] = []

    def start(spool: Path | None = None, **options: object) -> Daemon:
        daemon = Daemon(spool or tmp_path / "spool", tmp_path / f"daemon-{len(started)}.log", **options)
        started.append(daemon)
        return daemon

    yield start
    for daemon in started:
        daemon.kill()


@pytest.fixture
def passes(tmp_path: Path) -> Iterator[Passes]:
    """A daemon in this process."""
    driven = Passes(tmp_path / "spool")
    yield driven
    driven.daemon._shut_down()


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Processes in which daemons are struck; forked from none that has threads."""
    with workers() as pool:
        yield pool


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[Mounts]:
    """File systems below tmp_path; to be asked for before `start_daemon`, so that they outlive the daemons."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount file systems")
    made = Mounts(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The complete chat model of 0.9 MB that the real vLLM runs in tests; made once for a checkout."""
    model = ROOT / ".venv" / "tiny-model"
    model.parent.mkdir(exist_ok=True)
    subprocess.run(
        [sys.executable, ROOT / "tools" / "make_tiny_model.py", model], check=True, stdout=subprocess.DEVNULL
    )
    return model
