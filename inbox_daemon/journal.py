"""Where log lines go: the journal with fields under systemd, plain text on stderr elsewhere.

Owns the fields (INBOX_BATCH=…) and their names. No prompt and no answer ever reaches it: what is logged are names,
counts, line numbers and reasons.
"""

from __future__ import annotations

import logging
import os
import re
import sys

_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _PriorityFormatter(logging.Formatter):
    """Lines with sd-daemon(3)'s priority prefix, for journald reading our stderr."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITY.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


class _Printable(logging.Filter):
    """Makes the message all there is: the journal handler would copy its arguments as fields.

    What steers terminals becomes visible, whoever wrote it: file names reach the log, and so does what vLLM prints.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _STEERING.sub(lambda found: repr(found[0])[1:-1], record.getMessage()), None
        return True


def set_up(level: str) -> None:
    """Send the project's log to the right place. To be called once."""
    handler: logging.Handler
    if "JOURNAL_STREAM" in os.environ:
        try:
            from systemd.journal import JournalHandler

            handler = JournalHandler(SYSLOG_IDENTIFIER="inbox-daemon")
        except ImportError:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(_PriorityFormatter("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(_FORMAT))
    handler.addFilter(_Printable())
    root = logging.getLogger("inbox_daemon")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False


def of_batch(log: logging.Logger, batch: str) -> logging.LoggerAdapter[logging.Logger]:
    """Return a logger whose lines carry the batch's name as a field."""
    return logging.LoggerAdapter(log, {"INBOX_BATCH": batch})
