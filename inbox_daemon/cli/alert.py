"""`inbox-daemon alert --test`: hand a test alert to `alerts.command`, as the daemon would, and say how that ended."""

from __future__ import annotations

import argparse
import shlex
import socket
import subprocess
import time

from inbox_daemon.cli import show
from inbox_daemon.cli.settings import settings
from inbox_daemon.commands import WITHIN
from inbox_daemon.errors import ConfigError, InboxDaemonError
from inbox_daemon.records import Severity
from inbox_daemon.text import dumps, span


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = (
        "Run alerts.command with an alert that says it is a test. It runs as you and from here; the service runs it as "
        "its own user and may write less: sudo -u inbox-daemon inbox-daemon alert --test."
    )
    verb.add_argument("--test", action="store_true", required=True, help="what there is to do")
    verb.set_defaults(go=go)


def go(given: argparse.Namespace) -> int:
    command = settings(given).alerts.command
    if not command:
        what = "alerts go to the journal and to SPOOL/alerts.jsonl alone"
        raise ConfigError(f"alerts.command is not set: {what}; etc/inbox-daemon.toml has examples")
    said = {
        "alert": "Test",
        "state": "raised",
        "at": round(time.time(), 1),
        "severity": Severity.WARNING.value,
        "since": round(time.time(), 1),
        "text": "a test alert: somebody ran inbox-daemon alert --test",
        "batch": None,
        "lasted": None,
        "host": socket.gethostname(),
    }
    began = time.monotonic()
    try:
        ended = subprocess.run(command, input=dumps(said) + b"\n", timeout=WITHIN, check=False)
    except subprocess.TimeoutExpired:
        why = f"it has not ended within {WITHIN:.0f} s, after which the daemon kills it"
        raise InboxDaemonError(f"alerts.command: {shlex.join(command)}: {why}") from None
    except OSError as error:
        raise ConfigError(f"alerts.command: {command[0]}: {error.strerror}") from error
    if ended.returncode:
        raise InboxDaemonError(f"alerts.command: {shlex.join(command)} ended with {ended.returncode}")
    show.say(f"alerts.command took the test alert within {span(time.monotonic() - began)}; has it arrived?")
    return 0
