"""The settings as every verb reads them: file, environment and flags, so that all of them mean the same spool."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from inbox_daemon import config
from inbox_daemon.config import Config, Read
from inbox_daemon.errors import ConfigError


def settings(given: argparse.Namespace) -> Config:
    """Read the settings as `run` does, flags included. Raises ConfigError, NotNow."""
    return found(given).settings


def found(given: argparse.Namespace) -> Read:
    """Read the settings, with where each comes from. Raises ConfigError, NotNow."""
    flags: dict[str, Any] = {}
    if given.spool:
        flags["spool"] = str(Path(given.spool).absolute())
    if getattr(given, "model", None):
        flags["engine.model"] = given.model
    if getattr(given, "listen", None):
        flags["web.listen"] = given.listen
    read = config.found(given.config, flags)
    if not Path(read.settings.spool).is_absolute():
        raise ConfigError(f"spool = {read.settings.spool!r} must be an absolute path")
    return read
