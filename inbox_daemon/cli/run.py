"""`inbox-daemon run`: puts settings, engine and loop together. Decides nothing after that."""

from __future__ import annotations

import argparse
import os
import resource
from contextlib import closing, suppress
from functools import partial

from inbox_daemon import journal
from inbox_daemon.cli import preflight
from inbox_daemon.cli.settings import settings
from inbox_daemon.config.models import several
from inbox_daemon.daemon import Daemon
from inbox_daemon.engine.open import engine_of
from inbox_daemon.engine.workers import Workers
from inbox_daemon.machine.notify import Notifier


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = __doc__
    verb.add_argument("--model", metavar="PATH_OR_NAME", help="the model to serve, as vLLM takes it")
    verb.add_argument("--drain", action="store_true", help="end when nothing is left to do")
    verb.add_argument(
        "--check",
        action="store_true",
        help="ask vLLM first whether it accepts [engine.args], as the service does",
    )
    verb.set_defaults(go=go)


def go(given: argparse.Namespace) -> int:
    read = settings(given)
    preflight.demand(read, preflight.model)
    if given.check:
        preflight.demand(read, preflight.arguments)
    notifier = Notifier(os.environ)
    journal.set_up(read.daemon.log_level)
    _allow_many_files()
    with closing(Workers(read.engine.spare_worker, at_once=several(read))) as workers:
        daemon = Daemon(read, partial(engine_of, read, workers), notifier, drain=given.drain)
        return daemon.run(reread=lambda: settings(given))


def _allow_many_files() -> None:
    """A claimed batch holds three or four files open; the usual soft limit of 1024 is for users of select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 16384)), hard))
