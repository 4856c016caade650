"""What is shown of a row: a batch's line → a cell, a request's body → its messages. Pure, but for reading lines.

A list shows the beginning of a text and reads no more of a line than it needs; a row by itself shows all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, BinaryIO

import orjson

from inbox_daemon.compare import answers
from inbox_daemon.compare.answers import Form
from inbox_daemon.request.output import failure
from inbox_daemon.text import dumps

LISTED = 2_000  # characters of a text in a list
READ = 256 << 10  # bytes of a line that are read for a list

_BEGINNING = re.compile(rb'"(?:content|text)":"((?:[^"\\]|\\[^u]|\\u[0-9a-fA-F]{4})*)')
_ID = re.compile(rb'"custom_id":("(?:[^"\\]|\\.)*")')
_MOST_FIELDS = 64  # of an answer's JSON that are shown one by one


class State(StrEnum):
    """What a batch has in a row."""

    ANSWER = "answer"
    ERROR = "error"
    MISSING = "missing"  # the request is not in this batch, or has no answer yet
    GONE = "gone"  # the file with the line was taken away, or replaced, since it was indexed


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt, as text; `more` is how many characters were left out."""

    role: str
    text: str
    more: int = 0


@dataclass(frozen=True, slots=True)
class Cell:
    """What one batch says in a row.

    Attributes:
        text: of the answer, or the error's code and message; "" where it has none. In a list, its beginning.
        more: how many characters of it were left out.
        fields: of the answer's JSON object, where it is one: name and value as text, in the answer's order.
        thoughts: what the model thought before it answered, where that is part of its text or beside it.
        form: what the text is: JSON, JSON between fences, broken JSON, or text.
        differs: it does not say what most of the others do, in the field by which answers are compared.
        mark, note: what a person has said of this answer; "" for nothing.
    """

    state: State
    text: str = ""
    more: int = 0
    fields: tuple[tuple[str, str], ...] = ()
    thoughts: str = ""
    form: Form = Form.TEXT
    cut_off: bool = False
    refusal: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    differs: bool = False
    mark: str = ""
    note: str = ""


def cell(line: bytes, whole: int, most: int, characters: int) -> tuple[str, Cell]:
    """Return the custom_id of a line, "" where it has none, and what it says.

    Args:
        line: all of it, or its beginning. whole: the bytes that it has.
        most: characters of a text that are shown. characters: those that it has.
    """
    if len(line) < whole:
        return _cut(line, most, characters)
    try:
        parsed = orjson.loads(line)
        failed = failure(parsed)
        body = {} if failed else parsed["response"]["body"]
        custom_id = parsed["custom_id"] or ""
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", Cell(State.GONE)
    if failed:
        said = failed.said
        return custom_id, Cell(State.ERROR, said[:most], max(0, len(said) - most))
    answer = answers.read(body)
    text = answer.text or ""
    return custom_id, Cell(
        State.ANSWER,
        text[:most],
        max(0, len(text) - most),
        tuple(_fields(answer.value, most)),
        _thoughts(body, answer)[:most],
        answer.form,
        answer.cut_off,
        answer.looks_like_a_refusal,
        answer.input_tokens,
        answer.output_tokens,
    )


def _cut(line: bytes, most: int, characters: int) -> tuple[str, Cell]:
    """Of a line too long to be read for a list, the beginning of its text where that stands in the beginning."""
    found, named = _BEGINNING.search(line), _ID.search(line)
    text = _decoded(b'"' + found[1] + b'"')[:most] if found else ""
    return _decoded(named[1]) if named else "", Cell(State.ANSWER, text, max(0, characters - len(text)))


def _decoded(text: bytes) -> str:
    """Return the text of a JSON string; of one that was cut in the middle of a character, all before it."""
    try:
        return str(json.loads(text.decode("utf-8", "ignore"), strict=False))
    except ValueError:
        return ""


def _fields(value: object, most: int) -> Sequence[tuple[str, str]]:
    if not isinstance(value, dict):
        return ()
    shown = list(value.items())[:_MOST_FIELDS]
    return [(name[:most], (each if isinstance(each, str) else dumps(each).decode())[:most]) for name, each in shown]


def _thoughts(body: Mapping[str, Any], answer: answers.Answer) -> str:
    if answer.text != answer.bare and answer.text is not None and answer.bare is not None:
        return answer.text[: len(answer.text) - len(answer.bare)]
    choice = next(iter(body.get("choices") or ()), None) or {}
    message = choice.get("message") or {}
    said = message.get("reasoning_content") or message.get("reasoning")
    return said if isinstance(said, str) else ""


def messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a request asks as chat messages, whatever its endpoint."""
    found = body.get("messages") or body.get("input") or body.get("prompt") or body.get("query") or ""
    before = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
    if isinstance(found, list) and found and all(isinstance(each, dict) and "content" in each for each in found):
        return [*before, *found]
    return [*before, {"role": "user", "content": found if isinstance(found, str) else dumps(found).decode()}]


def shown(body: Mapping[str, Any], most: int) -> tuple[Message, ...]:
    """Return a request's messages as text; what is no text, such as an image, is named."""
    return tuple(_shown(each, most) for each in messages(body))


def _shown(message: Mapping[str, Any], most: int) -> Message:
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "\n".join(_part(part) for part in content)
    text = content if isinstance(content, str) else dumps(content).decode()
    return Message(str(message.get("role") or "user"), text[:most], max(0, len(text) - most))


def _part(part: object) -> str:
    if not isinstance(part, dict):
        return str(part)
    text = part.get("text")
    return text if isinstance(text, str) else f"[{part.get('type')}]"


def read(file: BinaryIO, offset: int, length: int, most: int) -> bytes:
    """Return a line, or its beginning of `most` bytes."""
    file.seek(offset)
    return file.read(min(length, most))
