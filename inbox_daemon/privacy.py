"""What of somebody else's words may be logged: no prompt and no answer, whoever repeats them.

Pure. Errors of vLLM and pydantic like to quote what they did not like; their lines in errors.jsonl are the user's own,
the journal is not.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterator

import orjson

_LEAST = 12  # characters in a row that a sentence has in common with a request: a quotation
READ = 1 << 16  # bytes of a request that are looked through; of a larger one's error nothing is repeated
_LONGEST = 200
_QUOTED = re.compile(r"""(["'`])(.+?)\1""", re.DOTALL)
_INPUT_VALUE = re.compile(r"input_value=.*?(?=, input_type=|\]$|$)", re.DOTALL)


def without_input(line: str) -> str:
    """Return a line of a log without what pydantic quotes of its input."""
    return _INPUT_VALUE.sub("input_value=…", line) if "input_value=" in line else line


def cause(sentence: str, request: bytes) -> str:
    """Return an error's sentence without what it repeats of this request: at most 200 characters on one line.

    Args:
        request: its line; of one longer than READ, more than READ bytes of it.
    """
    if len(request) > READ:
        return ""
    sentence = without_input(" ".join(sentence.split()))[:_LONGEST]
    try:
        texts = "\n".join(" ".join(text.split()) for text in _texts(orjson.loads(request)))
    except (ValueError, RecursionError):  # a faulty line may be nested as deeply as it likes
        return ""
    hidden = bytearray(len(sentence))
    for start in range(len(sentence) - _LEAST + 1):
        if sentence[start : start + _LEAST] in texts:
            hidden[start : start + _LEAST] = b"\1" * _LEAST
    for quoted in _QUOTED.finditer(sentence):
        if re.search(rf"(?<!\w){re.escape(quoted[2])}(?!\w)", texts):
            hidden[quoted.start(2) : quoted.end(2)] = b"\1" * len(quoted[2])
    kept = "".join("\0" if hide else character for character, hide in zip(sentence, hidden, strict=True))
    return re.sub("\0+", "…", kept)


class WithoutMessages(logging.Filter):
    """Cuts the message of an exception that somebody logs, and keeps where it was raised."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            kind, _, trace = record.exc_info
            named = getattr(kind, "__name__", "an exception")
            record.exc_text = f"{''.join(traceback.format_tb(trace))}{named} (what it says may quote a request)"
            record.exc_info = None
        return True


def _texts(value: object) -> Iterator[str]:
    """Yield every text in a request but the names that may be logged: its own and its model's."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("custom_id", "model") or not isinstance(inner, str):
                yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
