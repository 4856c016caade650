"""What of somebody else's words may be logged: no prompt and no answer, whoever repeats them.

Pure. Errors of vLLM and pydantic like to quote what they did not like; their lines in errors.jsonl are the user's own,
the journal is not.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator
from contextlib import suppress

import orjson

_LEAST = 12  # characters in a row that a sentence has in common with a request: a quotation
READ = 1 << 16  # bytes of a request that are looked through; of a larger one's error nothing is repeated
_LONGEST = 200
_WORD = re.compile(r"\w+")
# What stands in requests because the protocol wants it, and says nothing of what they are about.
# fmt: off
_OF_THE_PROTOCOL = frozenset((
    "array", "arguments", "auto", "assistant", "base64", "body", "boolean", "content", "description",
    "developer", "documents", "embedding", "encoding_format", "enum", "float", "function", "image_url", "input",
    "instructions", "integer", "items", "json", "json_object", "json_schema", "maxLength", "max_tokens",
    "messages", "method", "minLength", "model", "multipleOf", "name", "none", "null", "number", "object",
    "parameters", "pattern", "prompt", "properties", "query", "required", "response_format", "role", "schema",
    "seed", "stop", "strict", "string", "structured_outputs", "system", "temperature", "text", "text_1",
    "text_2", "tool", "tool_calls", "tool_choice", "tools", "type", "url", "user", "value",
))
# fmt: on
_QUOTED = re.compile(r"""(["'`])(.+?)\1""", re.DOTALL)

MARK = "\x01"  # before a line of the engine's log that is its own words
HIDDEN = "…"
QUOTES = "… (what it says may quote a request)"
_OF_A_PROCESS = r"((?:\(\w+ pid=\d+\) )?)"
_FRAME = re.compile(
    rf'{_OF_A_PROCESS}\s*(File "[^"\n]+", line \d+,? in \S+|Traceback \(most recent call last\):|Process \w+:)$'
)
_EXCEPTION = re.compile(rf"{_OF_A_PROCESS}((?:[a-zA-Z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit))(?=:|$)")
_CUDA = (
    r"out of memory|an illegal memory access was encountered|device-side assert triggered|unknown error"
    r"|unspecified launch failure|misaligned address|initialization error|the launch timed out and was terminated"
    r"|invalid device ordinal|invalid configuration argument|invalid argument|no kernel image is available"
)
_CRASH = re.compile(
    r"NVRM: Xid \([\w:.]+\): \d+(, GPU has fallen off the bus)?|GPU has fallen off the bus|GPU is lost"
    r"|uncorrectable ECC( error encountered)?|NVLink error|CUDA_ERROR_[A-Z_]+|NVML_ERROR_[A-Z_]+|CUBLAS_STATUS_[A-Z_]+"
    rf"|CUDA error: ({_CUDA})|CUDA out of memory(\. Tried to allocate [0-9.]+ [KMGT]iB)?|NCCL error|ncclInternalError"
    r"|Fatal Python error: (Segmentation fault|Aborted|Bus error|Illegal instruction)|Segmentation fault|Bus error"
    r"|No space left on device|Cannot allocate memory|Too many open files|Out of memory|terminate called"
)
_INPUT_VALUE = re.compile(r"input_value=.*?(?=, input_type=|\]$|$)", re.DOTALL)


def without_input(line: str) -> str:
    """Return a line of a log without what pydantic quotes of its input."""
    return _INPUT_VALUE.sub("input_value=…", line) if "input_value=" in line else line


def cause(sentence: str, request: bytes) -> str:
    """Return an error's sentence without what it repeats of this request: at most 200 characters on one line.

    Hidden are words that it has in common with a text of the request and that are more than chance: so many in a row,
    a quoted one, or one that is the whole of a text. Names of fields are texts, where the user has chosen them.

    Args:
        request: its line; of one longer than READ, more than READ bytes of it.
    """
    if len(request) > READ:
        return ""
    sentence = without_input(" ".join(sentence.split()))[:_LONGEST]
    try:
        whole = {form for text in _texts(orjson.loads(request)) for form in _forms(text)}
    except (ValueError, RecursionError):  # a faulty line may be nested as deeply as it likes
        return ""
    texts = "\n".join(whole)
    hidden = bytearray(len(sentence))
    for start in range(len(sentence) - _LEAST + 1):
        if sentence[start : start + _LEAST] in texts:
            hidden[start : start + _LEAST] = b"\1" * _LEAST
    for quoted in _QUOTED.finditer(sentence):
        if re.search(rf"(?<!\w){re.escape(quoted[2])}(?!\w)", texts):
            hidden[quoted.start(2) : quoted.end(2)] = b"\1" * len(quoted[2])
    for word in _WORD.finditer(sentence):
        if word[0] in whole:
            hidden[word.start() : word.end()] = b"\1" * len(word[0])
    for text in whole:  # of several words
        if len(text) < _LEAST and not _WORD.fullmatch(text):
            for at in _places(text, sentence):
                hidden[at : at + len(text)] = b"\1" * len(text)
    kept = "".join("\0" if hide else character for character, hide in zip(sentence, hidden, strict=True))
    return re.sub("\0+", "…", kept)


def _forms(text: str) -> Iterator[str]:
    """Yield a text as it may be quoted: as it is, as Python writes it, as JSON does."""
    plain = " ".join(text.split())
    if plain and plain not in _OF_THE_PROTOCOL:
        yield from (plain, repr(text)[1:-1])
        with suppress(TypeError):  # a lone surrogate
            yield orjson.dumps(text)[1:-1].decode()


def _places(text: str, sentence: str) -> Iterator[int]:
    at = sentence.find(text)
    while at >= 0:
        yield at
        at = sentence.find(text, at + 1)


def at_work(line: str) -> str:
    """Return what may be logged of a line that a process of the engine has written while it had requests.

    Args:
        line: as it came, with the marks of what its own loggers have looked at (`engine/worker/words`).

    Returns:
        A line that was marked, without its marks; of another one what it has of a traceback or of a crash's known
        phrases; HIDDEN where that is nothing.
    """
    if MARK in line:
        return line.replace(MARK, "")
    if _FRAME.match(line):
        return line
    if (found := _EXCEPTION.match(line)) and _is_a_name_of_a_program(found[2]):
        return f"{found[1] or ''}{found[2]}: {known_phrase(line) or QUOTES}"
    return known_phrase(line) or HIDDEN


def known_phrase(text: str) -> str:
    """Return what drivers and kernels say when something breaks, where a text has such words; "" where it has none."""
    return "; ".join(dict.fromkeys(found[0] for found in _CRASH.finditer(text)))


def _is_a_name_of_a_program(name: str) -> bool:
    return "." in name or hasattr(builtins, name)


def _texts(value: object, level: int = 0) -> Iterator[str]:
    """Yield every text in a request but names that may be logged: its own, its model's, those of OpenAI's fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if level > 1:
                yield key
            if key not in ("custom_id", "model") or not isinstance(inner, str):
                yield from _texts(inner, level + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, level + 1)
