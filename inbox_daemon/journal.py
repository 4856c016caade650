"""Where log lines go: the journal with fields under systemd, plain text on stderr elsewhere.

Owns the fields and their names: INBOX_BATCH, INBOX_REQUEST (custom_id), INBOX_LINE, INBOX_ENGINE (its number since the
daemon's start), INBOX_ALERT, and MESSAGE_ID for each kind of line worth finding. No prompt and no answer ever reaches
it: what is logged are names, counts, line numbers and reasons (`privacy`).
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections import deque
from collections.abc import MutableMapping
from contextlib import suppress
from enum import StrEnum
from typing import Any

_KEPT = 20  # lines, each cut to _KEPT_LENGTH characters
_KEPT_LENGTH = 300
_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class Message(StrEnum):
    """The MESSAGE_ID of each kind of line worth finding; never changed. systemd/inbox-daemon.catalog explains them."""

    BATCH_CLAIMED = "047672601c34432e8cc52bbdedeaf910"
    BATCH_ACCEPTED = "d5cae68a3e3e4573abe7179a609ad6cf"
    BATCH_SEALED = "0d88234dbbe34f5e93a4a23f297e0ddd"
    BATCH_COMPLETED = "0916d344e81c4c07bc3fa00bb9f871db"
    BATCH_FAILED = "f39778d7f9db4c3f9bf9e0de3acd83e7"
    BATCH_PARKED = "98c5633f068346fd8d76dd1953549210"
    BATCH_SUSPENDED = "75e80bad0431400a90416bc3a6e28280"
    REQUEST_ERROR = "c672d876d7524bbb8c7dd829aea6677f"
    ENGINE_STARTING = "86f68b3940e8431daa9bd62c5b9452bd"
    ENGINE_READY = "c20e607e50414e08bee3d1de2ed51202"
    ENGINE_DIED = "6e8872e71b624f94994e5b9b2ea552e9"
    ENGINE_STUCK = "bb0f5798e8e34901a143392a5d95e5b9"
    AUTOPSY = "27b9cefacd3f4e2185139afee9000d00"
    ALERT_RAISED = "0586d6747bc243269621747c78adc751"
    ALERT_CLEARED = "5b91d078b27e40bc901eb7ddbeb590df"


def tell(message: Message, **fields: object) -> dict[str, object]:
    """Return what a log call's `extra` must be for this kind of line; a field that is None is left out."""
    return {"MESSAGE_ID": message.value, **{key: value for key, value in fields.items() if value is not None}}


class _Recent(logging.Handler):
    """Keeps the last lines, for what the daemon says of itself: the first line of each, cut where it is long."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[dict[str, Any]] = deque(maxlen=_KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().partition("\n")[0][:_KEPT_LENGTH]
        self.lines.append({"at": round(record.created, 1), "level": record.levelname.lower(), "text": text})


_recent = _Recent()


def recent() -> list[dict[str, Any]]:
    """Return the last log lines, oldest first: `at` in Unix seconds, `level`, `text`."""
    return list(_recent.lines)


class _PriorityFormatter(logging.Formatter):
    """Lines with sd-daemon(3)'s priority prefix, for journald reading our stderr."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITY.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


class _Printable(logging.Filter):
    """Makes the message all there is: the journal handler would copy its arguments as fields.

    What steers terminals becomes visible, whoever wrote it: file names reach the log, and so does what vLLM prints. A
    message of several lines cannot be taken for several messages: its further lines are indented.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage().replace("\n", "\n    ")
        record.msg, record.args = _STEERING.sub(lambda found: repr(found[0])[1:-1], text), None
        return True


def _stderr_is_the_journal() -> bool:
    """Say so by the variable's device and inode, as systemd.exec(5) asks for: it is inherited, stderr may not be."""
    with suppress(OSError):
        there = os.fstat(2)
        return os.environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"
    return False


def set_up(level: str) -> None:
    """Send the project's log to the right place. To be called once."""
    handler: logging.Handler
    if _stderr_is_the_journal():
        try:
            from systemd.journal import JournalHandler

            handler = JournalHandler(SYSLOG_IDENTIFIER="inbox-daemon")
        except ImportError:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(_PriorityFormatter("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(_FORMAT))
    root = logging.getLogger("inbox_daemon")
    root.handlers[:] = [handler, _recent]
    for each in root.handlers:
        each.addFilter(_Printable())
    root.setLevel(level.upper())
    root.propagate = False


class _WithFields(logging.LoggerAdapter[logging.Logger]):
    """A logger whose lines all carry some fields, beside those of each line."""

    def process(self, msg: object, kwargs: MutableMapping[str, Any]) -> tuple[object, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


def of_batch(log: logging.Logger, batch: str) -> logging.LoggerAdapter[logging.Logger]:
    """Return a logger whose lines carry the batch's name as a field."""
    return _WithFields(log, {"INBOX_BATCH": batch})


def of_engine(log: logging.Logger, number: int) -> logging.LoggerAdapter[logging.Logger]:
    """Return a logger whose lines carry the engine's number since the daemon's start as a field."""
    return _WithFields(log, {"INBOX_ENGINE": number})
