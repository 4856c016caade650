"""tools/setup: uv and pip make the same environment, and a uv that fails costs time and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from running import ROOT

PIP_SETTINGS = """
[global]
index-url = https://mirror.example.org/simple
find-links = /srv/wheels
constraint = /etc/constraints.txt
[install]
extra-index-url =
    https://a.example.org/simple
    https://b.example.org/simple
"""


@pytest.mark.slow
def test_uv_looks_where_pip_is_told_to_look(tmp_path: Path) -> None:
    """Else a host behind a mirror, or with a cap on a release, would get what its operator does not want."""
    settings = tmp_path / "pip.conf"
    settings.write_text(PIP_SETTINGS)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    told = {"PIP_CONFIG_FILE": str(settings), "PIP_FIND_LINKS": "/opt/mine", "PIP_TRUSTED_HOST": "mirror.example.org"}
    echo = shutil.which("echo")
    assert echo is not None
    command = [sys.executable, str(ROOT / "tools/uv_install.py"), echo, "--editable", ".[cpu]"]
    words = subprocess.run(command, env=kept | told, capture_output=True, text=True, check=True).stdout.split()
    assert words[:4] == ["pip", "install", "--python", sys.executable]
    assert words[4:] == [
        *("--index-strategy", "unsafe-best-match"),
        *("--default-index", "https://mirror.example.org/simple"),
        *("--index", "https://a.example.org/simple", "--index", "https://b.example.org/simple"),
        *("--find-links", "/opt/mine"),  # a variable wins over a file
        *("--constraint", "/etc/constraints.txt"),
        *("--allow-insecure-host", "mirror.example.org"),
        *("--editable", ".[cpu]"),
    ]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of this checkout that asks for no vLLM: its 3 GB are no business of these tests."""
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    project = copy / "pyproject.toml"
    project.write_text(re.sub(r"(?m)^(cpu|gpu) = .*$", r"\1 = []", project.read_text()))
    return copy


def set_up(checkout: Path, *flags: str, **variables: str) -> str:
    env = os.environ | {"PYTHON": sys.executable} | variables
    command = [str(checkout / "tools/setup"), *flags]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(venv: Path) -> Mapping[str, str]:
    """Names and versions of what an environment holds."""
    command = [str(venv / "bin/python"), "-m", "pip", "list", "--format", "freeze"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(line.lower().replace("_", "-").split("==") for line in listed.splitlines())


@pytest.mark.slow
def test_uv_and_pip_install_the_same_and_where_uv_fails_pip_goes_on(checkout: Path, tmp_path: Path) -> None:
    said = set_up(checkout)
    assert "pip tries" not in said
    by_uv = installed(checkout / ".venv")
    assert "inbox-daemon" in by_uv
    assert list((checkout / ".venv").glob("uv-*")) == [], "the uv that it got for itself goes again"
    assert "making" not in set_up(checkout), "a second run finds what the first one made"

    shutil.rmtree(checkout / ".venv")
    broken = tmp_path / "bin/uv"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'uv is not well' >&2\nexit 2\n")
    broken.chmod(0o755)
    said = set_up(checkout, PATH=f"{broken.parent}:{os.environ['PATH']}")
    assert "pip tries" in said
    assert installed(checkout / ".venv") == by_uv


@pytest.mark.slow
def test_an_upgrade_of_the_service_takes_code_whose_version_is_the_same(checkout: Path, tmp_path: Path) -> None:
    """uv would take the wheel that it built of an earlier state."""
    venv = tmp_path / "service"
    for change in ("first", "second"):
        with (checkout / "inbox_daemon/__init__.py").open("a") as module:
            module.write(f"\nSTATE = {change!r}\n")
        (venv / "setup-stamp").unlink(missing_ok=True)  # everything anew: the step that uv does
        set_up(checkout, "--into", str(venv))
        command = [str(venv / "bin/python"), "-I", "-c", "import inbox_daemon; print(inbox_daemon.STATE)"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == change
    assert list(venv.glob("lib/python3*/site-packages/inbox_daemon/__pycache__/daemon.*.pyc"))
