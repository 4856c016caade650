"""What a process of the engine may write once it has requests: its own words and numbers, whoever quotes a request."""

from __future__ import annotations

import errno
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from inbox_daemon.engine import at_work_file
from inbox_daemon.engine.worker import words
from inbox_daemon.privacy import HIDDEN, MARK, at_work

SECRET = "Zaphod's second head"


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What a logger of the engine writes; `at_work_file` is not there yet."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stream, logger = io.StringIO(), logging.getLogger("vllm")
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    words.watch_over_loggers()
    yield stream
    logger.removeHandler(handler)
    for other in logging.getLogger().handlers:
        other.removeFilter(words._only_own_words)


def line(said: io.StringIO) -> str:
    """What was logged since the last time, as the daemon would log it."""
    text = said.getvalue()
    said.seek(0)
    said.truncate()
    return "\n".join(at_work(one) for one in text.splitlines())


log = logging.getLogger("vllm.tests")


def test_while_it_loads_all_is_said_and_from_then_on_only_its_own_words_and_numbers(said: io.StringIO) -> None:
    log.error("Loading %s", SECRET)
    assert said.getvalue() == f"Loading {SECRET}\n" and line(said)
    words.begin()
    log.error("Dumping scheduler output for model execution: %s", {"stop": [SECRET]})
    assert line(said) == "Dumping scheduler output for model execution: …"
    log.error("%d of %d blocks, %.1f tokens/s, request %s for tokens %s", 3, 7, 2.5, SECRET, 1086)
    assert line(said) == "3 of 7 blocks, 2.5 tokens/s, request … for tokens …"
    log.error("%(name)s at %(at)d", {"name": SECRET, "at": 4})
    assert line(said) == "… at 4"
    log.error("no arguments at all")
    assert line(said) == "no arguments at all"


def test_a_sentence_that_was_put_together_is_not_shown(said: io.StringIO) -> None:
    words.begin()
    log.error(f"cannot compile {SECRET}")
    assert line(said) == HIDDEN
    log.error(ValueError(SECRET))
    assert line(said) == HIDDEN
    log.error("%d items", SECRET)
    assert line(said) == HIDDEN
    log.error("first\nsecond %s", SECRET)
    assert line(said) == "first\nsecond …"


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_of_an_exception_its_place_and_kind_are_shown_and_its_words_where_they_are_the_programs(
    said: io.StringIO,
) -> None:
    words.begin()
    try:
        try:
            raise KeyError(SECRET)
        except KeyError as first:
            raise ValueError("the grammar is empty") from first
    except ValueError:
        log.exception("Failed to compile grammar for request %s", "chatcmpl-1")
    shown = line(said)
    assert SECRET not in shown and "Failed to compile grammar for request …" in shown
    assert "KeyError: … (what it says may quote a request)" in shown and "ValueError: the grammar is empty" in shown
    assert "test_words.py" in shown
    log.error("it failed", exc_info=raised(OSError(errno.ENOSPC, "No space left on device", SECRET)))
    assert "OSError: No space left on device" in (shown := line(said)) and SECRET not in shown
    log.error("it failed", exc_info=raised(RuntimeError(f"CUDA error: out of memory near {SECRET}")))
    assert "RuntimeError: CUDA error: out of memory\n" in (shown := line(said) + "\n") and SECRET not in shown


CORE = "(EngineCore pid=7)"
QUOTES = "… (what it says may quote a request)"


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        (f"{MARK}ERROR [core.py:1] it died", "ERROR [core.py:1] it died"),
        (f'{CORE}   File "/v/core.py", line 3, in step', f'{CORE}   File "/v/core.py", line 3, in step'),
        (f"{CORE} Process EngineCore:", f"{CORE} Process EngineCore:"),
        (f"{CORE} RuntimeError: {SECRET}", f"{CORE} RuntimeError: {QUOTES}"),
        ("torch.OutOfMemoryError: CUDA out of memory. x", "torch.OutOfMemoryError: CUDA out of memory"),
        (f"SecretError: {SECRET}", HIDDEN),
        (f"[05:15:10] /project/cpp/json_schema_converter.cc:1499: Warning: got {SECRET}", HIDDEN),
        (SECRET, HIDDEN),
        ("x NVRM: Xid (PCI:0000:65:00): 79, y", "NVRM: Xid (PCI:0000:65:00): 79"),
        ("Fatal Python error: Segmentation fault", "Fatal Python error: Segmentation fault"),
    ],
)
def test_of_what_some_library_prints_only_what_it_cannot_have_from_a_request_is_shown(printed: str, shown: str) -> None:
    assert at_work(printed) == shown


def test_the_sign_that_there_are_requests_is_in_the_workers_own_folder(said: io.StringIO, tmp_path: Path) -> None:
    assert not at_work_file(tmp_path).exists()
    words.begin()
    assert at_work_file(tmp_path).exists()
