"""What the engine's processes may write once they have requests: their own words and numbers, nothing of a request.

Owns the filter of their loggers. It keeps what stands in the program's text, and the numbers that it is asked to show;
whatever else is put into a sentence, a schema in a crash dump or the grammar in an exception, becomes "…". The marks
that it leaves tell the daemon which lines it has seen; of all others, printed by whatever library, little is kept
(`privacy.at_work`).
"""

from __future__ import annotations

import logging
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, TracebackType

from inbox_daemon.engine import at_work_file
from inbox_daemon.privacy import HIDDEN, MARK, QUOTES, known_phrase

_CALLERS = 16  # frames looked through for the sentence; vLLM's loggers have wrappers
_LONGEST = 300
# Who only sees tensors and numbers of tokens cannot quote a text; what torch says of them is what a crash is known by.
_SEES_NO_TEXT = ("/torch/", "/vllm/v1/worker/", "/vllm/v1/sample/", "/vllm/v1/attention/", "/vllm/model_executor/")


def begin() -> None:
    """From here on there are requests, for this process and all that it has started."""
    _file().open("w").close()


def say(sentence: str) -> None:
    """Print a sentence of ours, in which nothing of a request is."""
    print(f"{MARK}inbox-daemon: {sentence}", file=sys.stderr, flush=True)


def watch_over_loggers() -> None:
    """Put the filter into vLLM's handlers and the root's, once vLLM has made them. What is forked has it too."""
    for handler in {*logging.getLogger("vllm").handlers, *logging.getLogger().handlers}:
        handler.addFilter(_only_own_words)


def _file() -> Path:
    return at_work_file(Path(tempfile.gettempdir()))  # TMPDIR is the worker's own, and what it starts inherits it


class _Hidden:
    def __repr__(self) -> str:
        return HIDDEN


class _Whole(int):
    __str__ = __repr__ = _Hidden.__repr__  # shown where a number is asked for, and not where any text may stand


class _Real(float):
    __str__ = __repr__ = _Hidden.__repr__


def _only_own_words(record: logging.LogRecord) -> bool:
    if not _file().exists():
        return True
    sentence = record.msg if isinstance(record.msg, str) and _stands_in_the_program(record.msg) else HIDDEN
    if sentence != HIDDEN and record.args:
        given, by_name = record.args, "%(" in sentence
        hidden: object = _Hidden()  # as one dictionary is, that no name is asked from
        if isinstance(given, tuple):
            hidden = tuple(map(_shown, given))
        elif by_name:
            hidden = {key: _shown(one) for key, one in given.items()}
        try:
            sentence = sentence % hidden
        except (TypeError, ValueError, KeyError):
            sentence = HIDDEN
    record.msg, record.args = _marked(sentence), ()
    if record.exc_info and record.exc_info[1] is not None:
        record.exc_text = _marked("".join(_told(record.exc_info[1])))
    record.exc_info = record.stack_info = None
    return True


def _marked(text: str) -> str:
    return "\n".join(f"{MARK}{line}" for line in text.rstrip("\n").split("\n"))


def _shown(value: object) -> object:
    if isinstance(value, bool):
        return _Hidden()
    if isinstance(value, int):
        return _Whole(value)
    return _Real(value) if isinstance(value, float) else _Hidden()


def _stands_in_the_program(sentence: str) -> bool:
    """Say whether one of the callers has this text as it is in its code; what is put together has none."""
    frame = sys._getframe(1)
    for _ in range(_CALLERS):
        if sentence in _texts(frame.f_code):
            return True
        if frame.f_back is None:
            break
        frame = frame.f_back
    return False


def _texts(code: CodeType) -> Iterator[str]:
    return (constant for constant in code.co_consts if isinstance(constant, str))


def _told(error: BaseException) -> Iterator[str]:
    """Yield the lines of an exception and of those that it comes from, the first one first."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from _told(before)
    yield from traceback.format_tb(error.__traceback__)
    yield f"{type(error).__qualname__}: {_message(error)}\n"


def _message(error: BaseException) -> str:
    text = next(iter(str(error).splitlines()), "")[:_LONGEST]
    if isinstance(error, OSError):
        return error.strerror or QUOTES
    innermost = _innermost(error.__traceback__)
    if innermost is not None and (
        text in _texts(innermost) or any(part in innermost.co_filename for part in _SEES_NO_TEXT)
    ):
        return text
    return known_phrase(str(error)) or QUOTES


def _innermost(trace: TracebackType | None) -> CodeType | None:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code if trace is not None else None
