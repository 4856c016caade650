"""`inbox-daemon run`: puts settings, engine and loop together. Decides nothing after that."""

from __future__ import annotations

import argparse
import os
import resource
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

from inbox_daemon import config, journal
from inbox_daemon.config import Config
from inbox_daemon.daemon import Daemon
from inbox_daemon.engine import Engine
from inbox_daemon.engine.local import LocalEngine
from inbox_daemon.engine.null import NullEngine
from inbox_daemon.engine.workers import Workers
from inbox_daemon.errors import ConfigError
from inbox_daemon.machine.notify import Notifier
from inbox_daemon.request import policy


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser("run", parents=[shared], help="the daemon", description=__doc__)
    verb.add_argument("--model", metavar="PATH_OR_NAME", help="the model to serve, as vLLM takes it")
    verb.add_argument("--drain", action="store_true", help="end when nothing is left to do")
    verb.set_defaults(go=go)


def settings(given: argparse.Namespace) -> Config:
    """Read the settings as `run` does, flags included. Raises ConfigError."""
    flags: dict[str, Any] = {}
    if given.spool:
        flags["spool"] = str(Path(given.spool).absolute())
    if getattr(given, "model", None):
        flags["engine.model"] = given.model
    read = config.from_environment(given.config, flags)
    if not Path(read.spool).is_absolute():
        raise ConfigError(f"spool = {read.spool!r} must be an absolute path")
    return read


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


def engine_of(read: Config, workers: Workers, number: int) -> Engine:
    """Start the engine that these settings name; `number` tells it from others of this process, in the log."""
    if read.engine.kind == "null":
        return NullEngine(read.engine)
    return LocalEngine(workers, read.engine, policy.for_vllm(read.requests), number)


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
