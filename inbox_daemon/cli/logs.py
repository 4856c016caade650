"""`inbox-daemon logs NAME`: what the journal has of one batch."""

from __future__ import annotations

import argparse
import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

from inbox_daemon.cli import show
from inbox_daemon.cli.settings import settings
from inbox_daemon.layout import Spool

UNIT = "inbox-daemon"


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = "Show what the journal has of one batch, oldest first."
    verb.add_argument("name", metavar="NAME", help="the batch, as its folder in the outbox is called")
    verb.add_argument("-f", "--follow", action="store_true", help="go on as lines come")
    verb.add_argument("--user", action="store_true", help="the daemon is a service of yours, not of the host's")
    verb.set_defaults(go=go)


def go(given: argparse.Namespace) -> int:
    spool = Spool(Path(settings(given).spool))
    name = spool.batch(given.name).dir.name
    if shutil.which("journalctl") is None or not Path("/run/systemd/system").is_dir():
        show.say(
            "inbox-daemon: no journal on this host; `inbox-daemon run` prints its log to its terminal", show.errors
        )
        return 1
    command = ["journalctl", "--user" if given.user else "--system", f"--unit={UNIT}", "--output=short-iso"]
    command += ["--follow"] if given.follow else ["--no-pager"]
    # Lines have the field where the daemon has systemd-python; without it, all there is of the name is their beginning.
    command.append(f"INBOX_BATCH={name}" if find_spec("systemd") else f"--grep=^{re.escape(name)}: ")
    os.execvp(command[0], command)
    raise AssertionError("unreachable")
