"""`inbox-daemon run`: puts settings, engine and loop together. Decides nothing after that."""

from __future__ import annotations

import argparse
import os
import resource
from contextlib import closing, suppress
from functools import partial

from inbox_daemon import journal
from inbox_daemon.cli.settings import settings
from inbox_daemon.config import Config
from inbox_daemon.daemon import Daemon
from inbox_daemon.engine.open import engine_of
from inbox_daemon.engine.workers import Workers
from inbox_daemon.errors import ConfigError
from inbox_daemon.machine.notify import Notifier


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = __doc__
    verb.add_argument("--model", metavar="PATH_OR_NAME", help="the model to serve, as vLLM takes it")
    verb.add_argument("--drain", action="store_true", help="end when nothing is left to do")
    verb.set_defaults(go=go)


def check_model(read: Config) -> None:
    """Raise ConfigError where no model is named, or a path that does not exist. A name is for vLLM to find."""
    model = read.engine.model
    if read.engine.kind != "vllm":
        return
    if not model:
        how = "name the model to serve, with --model or [engine] model = … in the settings"
        raise ConfigError(f"engine.model is not set: {how}")
    if model.startswith(("/", "./", "../", "~")) and not os.path.exists(model):  # noqa: PTH110  raises nothing
        unseen = "; a service sees nothing below /home, /root and /tmp" if "INVOCATION_ID" in os.environ else ""
        raise ConfigError(f"engine.model = {model!r}: there is nothing of that name{unseen}")


def go(given: argparse.Namespace) -> int:
    read = settings(given)
    check_model(read)
    notifier = Notifier(os.environ)
    journal.set_up(read.daemon.log_level)
    _allow_many_files()
    with closing(Workers(read.engine.spare_worker)) as workers:
        daemon = Daemon(read, partial(engine_of, read, workers), notifier, drain=given.drain)
        return daemon.run(reread=lambda: settings(given))


def _allow_many_files() -> None:
    """A claimed batch holds three or four files open; the usual soft limit of 1024 is for users of select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 16384)), hard))
