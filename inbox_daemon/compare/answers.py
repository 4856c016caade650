"""What one answer says: its text, whether it is JSON, a label and a number in it, and how it ended. Pure.

Knows the bodies of chat completions, completions, responses, transcriptions, scores and rerankings. What has no text is
an answer all the same: of a score its number is compared, of an embedding nothing. The one truth about when two answers
are the same, for `compare` and for the viewer.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b
from typing import Any

import orjson

WHOLE = ""  # the field that is the answer's whole text

_THOUGHTS = "<think>", "</think>"
_WHOLE_NUMBERS = 2.0**53  # up to which a float holds each
_FENCED = re.compile(r"^```[a-zA-Z]*\s*\n(.*?)\n?```$", re.DOTALL)
_REFUSAL = re.compile(
    r"(i['\u2019]?m sorry|i am sorry|sorry,|i can(no|['\u2019])t|i am (not able|unable)|as an ai\b)", re.IGNORECASE
)
_LONGEST_REFUSAL = 400  # characters; what is longer says something
_MOST_LABELS = 50  # different values of a field that is one of labels
_LONGEST_LABEL = 100  # characters
_NEARLY_ALL = 0.9


class Form(IntEnum):
    """What an answer's text is: JSON, JSON between fences, something that begins like JSON and is none, or prose."""

    TEXT = 0
    JSON = 1
    FENCED = 2
    BROKEN = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """What is compared of one answer.

    Attributes:
        text: None where the endpoint's answers are no text.
        bare: the text without what the model thought before it (`<think>…</think>`).
        value: what the bare text is as JSON, or the numbers of a score; None where it is none.
        cut_off: it ended because there was no room for more tokens (`finish_reason: length`).
    """

    text: str | None
    bare: str | None
    form: Form
    value: Any
    input_tokens: int
    output_tokens: int
    cut_off: bool

    @property
    def looks_like_a_refusal(self) -> bool:
        text = self.bare or ""
        return self.form is Form.TEXT and len(text) < _LONGEST_REFUSAL and bool(_REFUSAL.match(text.strip()))

    @property
    def digest(self) -> int:
        """64 bits of a hash: equal where two answers say the same. 0 where there is nothing to compare."""
        if self.value is not None and (same := canonical(self.value)) is not None:
            return hashed(same)
        return digest(self.bare) if self.bare is not None else 0

    def label(self, field: str) -> str | None:
        """Return the label in a field of the answer's object, or the whole text; None where there is none."""
        if field == WHOLE:
            return _label(self.bare)
        return _label(self.value.get(field)) if isinstance(self.value, dict) else None

    def says(self) -> Iterator[tuple[str, str, float | None]]:
        """Yield each field of the answer's object that says anything: its name, its value as text, its number if any.

        Two fields say the same where their texts are equal: 8, 8.0 and "8"; true and "TRUE"; {"a": 1, "b": 2} in
        whatever order. Null says nothing.
        """
        if not isinstance(self.value, dict):
            return
        for name, value in self.value.items():
            if isinstance(value, str):
                yield name, normal(value), None
            elif value is not None and (same := canonical(value)) is not None:
                yield name, same.decode(), self.number(name)

    def number(self, field: str) -> float | None:
        found = self.value.get(field) if isinstance(self.value, dict) else None
        return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def read(body: Mapping[str, Any]) -> Answer:
    """Return what the body of an answered request says. Where a body is like none that is known, it has no text."""
    text, cut_off = _said(body)
    bare = _without_thoughts(text) if text is not None else None
    form, value = _as_json(bare) if bare is not None else (Form.TEXT, _numbers(body))
    usage = body.get("usage") or {}
    written = usage.get("completion_tokens", usage.get("output_tokens")) or 0
    return Answer(text, bare, form, value, usage.get("prompt_tokens", usage.get("input_tokens")) or 0, written, cut_off)


def _said(body: Mapping[str, Any]) -> tuple[str | None, bool]:
    if isinstance(output := body.get("output"), list):  # /v1/responses
        parts = [part for item in output if item.get("type") == "message" for part in item.get("content") or ()]
        text = "".join(part.get("text", "") for part in parts if part.get("type") == "output_text")
        calls = [(item.get("name"), item.get("arguments")) for item in output if item.get("type") == "function_call"]
        return text or _called(calls), body.get("status") == "incomplete"
    choice = next(iter(body.get("choices") or ()), None)
    if choice is None:
        said = body.get("text")  # a transcription
        return said if isinstance(said, str) else None, False
    cut_off = choice.get("finish_reason") == "length"
    if (message := choice.get("message")) is None:
        return choice.get("text"), cut_off
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or ()]
    return message.get("content") or _called(calls), cut_off


def _called(calls: Iterable[tuple[Any, Any]]) -> str:
    """Return tool calls as text, so that answers that are nothing else can be compared."""
    found = list(calls)
    return orjson.dumps(found).decode() if found else ""


def _numbers(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the number of a score, or which document a reranking puts first, as if it were an answer's object."""
    data, results = body.get("data"), body.get("results")
    if isinstance(data, list) and data and isinstance(data[0], dict) and "score" in data[0]:
        return {f"score {n}" if len(data) > 1 else "score": each["score"] for n, each in enumerate(data, 1)}
    if isinstance(results, list) and results and isinstance(results[0], dict) and "relevance_score" in results[0]:
        best = max(results, key=lambda each: each["relevance_score"])
        return {"best": best["index"], "score": best["relevance_score"]}
    return None


def _without_thoughts(text: str) -> str:
    begin, end = _THOUGHTS
    before, found, after = text.partition(end)
    # Some chat templates put the beginning into the prompt, so that the answer has the end alone.
    return after if found and (begin not in before or before.lstrip().startswith(begin)) else text


def _as_json(text: str) -> tuple[Form, Any]:
    stripped = text.strip()
    fenced = _FENCED.match(stripped)
    inner = fenced[1].strip() if fenced else stripped
    if not inner.startswith(("{", "[")):
        return Form.TEXT, None
    try:
        return (Form.FENCED if fenced else Form.JSON), orjson.loads(inner)
    except ValueError:
        return Form.BROKEN, None


def normal(text: str) -> str:
    """Return a text without what is no difference: form of characters, case, white space."""
    return " ".join((text if text.isascii() else unicodedata.normalize("NFKC", text)).split()).casefold()


def digest(text: str) -> int:
    """Return 64 bits of a hash of the normal text: equal texts have the same."""
    return hashed(normal(text).encode("utf-8", "surrogatepass"))


def hashed(content: bytes) -> int:
    """Return 64 bits of a hash."""
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little")


def canonical(value: Any) -> bytes | None:
    """Return JSON without what is no difference: order of keys, form of numbers, and of strings what `normal` drops.

    None where it is nested too deep to be written again.
    """
    try:
        return orjson.dumps(_plain(value), option=orjson.OPT_SORT_KEYS)
    except (TypeError, RecursionError):
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return normal(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < _WHOLE_NUMBERS else value
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value


def _label(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str) or len(value) > _LONGEST_LABEL:
        return None
    return normal(value) or None


def field_of_labels(sample: Iterable[Answer]) -> str | None:
    """Return the field that holds labels: in nine answers of ten, of at most 50 different ones, the fewest of all.

    The whole text where answers are no objects but words of few kinds. None where nothing is a label.
    """
    answers = list(sample)
    values: dict[str, Counter[str]] = {}
    for answer in answers:
        names = answer.value if isinstance(answer.value, dict) else (WHOLE,)
        for name in names:
            if (label := answer.label(name)) is not None:
                values.setdefault(name, Counter())[label] += 1
    enough = _NEARLY_ALL * len(answers)
    most = min(_MOST_LABELS, len(answers) // 2)  # as many labels as answers label nothing
    fit = {name: len(seen) for name, seen in values.items() if seen.total() >= enough and 1 < len(seen) <= most}
    return min(fit, key=lambda name: (fit[name], name)) if fit else None


def field_of_numbers(sample: Iterable[Answer]) -> str | None:
    """Return the first field that holds a number in nine answers of ten; None where there is none."""
    answers = list(sample)
    seen: Counter[str] = Counter()
    for answer in answers:
        for name in answer.value if isinstance(answer.value, dict) else ():
            seen[name] += answer.number(name) is not None
    return next((name for name, count in seen.items() if count and count >= _NEARLY_ALL * len(answers)), None)
