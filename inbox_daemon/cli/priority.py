"""`inbox-daemon priority NAME NUMBER`: a control file that has a number in it."""

from __future__ import annotations

import argparse
import re

from inbox_daemon.cli import control
from inbox_daemon.config import MOST_PRIORITY


def add(verb: argparse.ArgumentParser) -> None:
    control.add(verb)
    verb.add_argument("number", metavar="NUMBER", type=_priority)


def _priority(text: str) -> int:
    """Return the number. Raises ArgumentTypeError where the daemon would throw it away."""
    if not re.fullmatch(r"[+-]?\d+", text, re.ASCII) or not -MOST_PRIORITY <= int(text) <= MOST_PRIORITY:
        raise argparse.ArgumentTypeError(f"a whole number from -{MOST_PRIORITY:,} to {MOST_PRIORITY:,}, not {text!r}")
    return int(text)
