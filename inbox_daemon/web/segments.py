"""Lines of one file → what the viewer knows of them. Runs in a child process of its own, niced and bounded (`main`).

A segment is a folder: `rows` (a record for each line), `values` (one for each field of an answer's JSON), `text` (what
was answered, in lower case, a NUL after each) and `meta.json`, which is written last and has lengths and checksums of
the others. Records are written as they come, so memory does not grow with the file. Never writes into a spool; which
segments there are is `cache`'s.
"""

from __future__ import annotations

import math
import os
import resource
import struct
import sys
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

import orjson

from inbox_daemon.compare import answers
from inbox_daemon.compare.answers import WHOLE, Answer, Form
from inbox_daemon.errors import InboxDaemonError
from inbox_daemon.machine.parent import tie_to_parent
from inbox_daemon.request.output import failure, place_of_line
from inbox_daemon.spool.published import opened
from inbox_daemon.text import dumps

VERSION = 2  # of what stands in these files; another one is built again

# key, digest, offset, place in `text`, length, place in the file, characters, input and output tokens, flags, form
ROW = struct.Struct("<QQQQIIIIIBB2x")
VALUE = struct.Struct("<IIQd")  # row, field, hash, number
PROMPT = struct.Struct("<QQI4x")  # key, offset, length

ERROR, CUT_OFF, REFUSAL, NO_TEXT = 1, 2, 4, 8  # flags of a row; what its text is (`answers.Form`) stands beside them

MOST_FIELDS = 32
MOST_VALUES = 200  # different values of a field of labels; where there are more, none is known by its text
LONGEST_VALUE = 100  # characters of such a text
LONGEST_TEXT = 1 << 20  # characters of an answer that can be searched
NO_PLACE = 0xFFFFFFFF

_SAMPLE, _SAMPLED = 1_000, 16_384  # answers, and characters of one, by which the fields of labels and numbers are found
_EACH = 2_000  # lines, after which the parent hears how far it is
_MEMORY = 2 << 30  # bytes of address space
_NICE = 10


class Field(TypedDict):
    """A field of the answers' JSON; WHOLE is what an answer that is no object says as a whole, where that is short.

    Attributes:
        texts: of its values, by their hash in hexadecimal, where they are short and few: a field of labels. many: where
            they are not, and there is none.
        numbers: how many answers have a number in it. count: how many have anything.
    """

    name: str
    texts: dict[str, str]
    many: bool
    numbers: int
    count: int


class Meta(TypedDict):
    """What is known of a segment as a whole.

    Attributes:
        lines: of the file. unreadable: those of them that are none of ours, and have no row.
        label, number: fields by which answers are best compared (`answers.field_of_labels`); null where there is none.
        files: length in bytes and CRC-32 of each file.
    """

    version: int
    lines: int
    unreadable: int
    fields: list[Field]
    label: str | None
    number: str | None
    files: dict[str, tuple[int, int]]


def key_of(custom_id: object) -> int:
    """Return 64 bits of a hash of a custom_id; 0 where it is no text, which no custom_id has."""
    return value_key(custom_id) if isinstance(custom_id, str) else 0


def value_key(text: str) -> int:
    """Return the hash by which a field's value is known (`Answer.says`)."""
    return answers.hashed(text.encode("utf-8", "surrogatepass")) or 1


class _Checked:
    """A file that is written in one go, and knows its length and checksum."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb", 0)  # noqa: SIM115 - closed by `close`
        self.length = self.crc = 0
        self._waiting = bytearray()

    def write(self, content: bytes) -> None:
        self._waiting += content
        self.length += len(content)
        if len(self._waiting) >= 1 << 18:
            self._flush()

    def _flush(self) -> None:
        self.crc = zlib.crc32(self._waiting, self.crc)
        self._file.write(self._waiting)
        self._waiting.clear()

    def close(self) -> tuple[int, int]:
        self._flush()
        self._file.close()
        return self.length, self.crc


class _Answers:
    """The segment of a file of answers and errors: a part, results.jsonl or errors.jsonl."""

    def __init__(self, into: Path) -> None:
        self._rows, self._values, self._text = (_Checked(into / name) for name in ("rows", "values", "text"))
        self._count = 0
        self._fields: dict[str, tuple[int, Field]] = {}
        self._sample: list[Answer] = []

    def line(self, line: bytes, offset: int) -> None:
        """Note one line. Raises ValueError, KeyError, TypeError, AttributeError: it is none of ours."""
        parsed = orjson.loads(line)
        if (failed := failure(parsed)) is not None:
            said = failed.said
            row = (answers.digest(said), ERROR, Form.TEXT, 0, 0, len(said))
        else:
            answer = answers.read(parsed["response"]["body"])
            said = answer.text or ""
            flags = CUT_OFF * answer.cut_off | NO_TEXT * (answer.text is None)
            flags |= REFUSAL * answer.looks_like_a_refusal
            row = (answer.digest, flags, answer.form, answer.input_tokens, answer.output_tokens, len(said))
            self._note(answer)
        digest, flags, form, read, written, characters = row
        place = place_of_line(line)
        self._rows.write(
            ROW.pack(
                key_of(parsed["custom_id"]),
                digest,
                offset,
                self._text.length,
                len(line),
                NO_PLACE if place is None else min(place, NO_PLACE),
                characters,
                read,
                written,
                flags,
                form,
            )
        )
        lowered = said[:LONGEST_TEXT].lower().replace("\0", " ")
        self._text.write(lowered.encode("utf-8", "replace") + b"\0")
        self._count += 1

    def _note(self, answer: Answer) -> None:
        if len(self._sample) < _SAMPLE and len(answer.text or "") < _SAMPLED:
            self._sample.append(answer)
        if not isinstance(answer.value, dict) and (whole := answer.label(WHOLE)) is not None:
            self._value(WHOLE, whole, None)
        for name, text, number in answer.says():
            if name != WHOLE and (noted := self._value(name, text, number)) is not None:
                at, hashed = noted
                self._values.write(VALUE.pack(self._count, at, hashed, math.nan if number is None else number))

    def _value(self, name: str, text: str, number: float | None) -> tuple[int, int] | None:
        """Count a value; return its field's number and its hash, None where there are too many fields."""
        if name not in self._fields:
            if len(self._fields) >= MOST_FIELDS:
                return None
            self._fields[name] = len(self._fields), {"name": name, "texts": {}, "many": False, "numbers": 0, "count": 0}
        at, field = self._fields[name]
        hashed = value_key(text)
        field["count"] += 1
        field["numbers"] += number is not None
        if not field["many"]:
            field["texts"][f"{hashed:016x}"] = text
            if len(text) > LONGEST_VALUE or len(field["texts"]) > MOST_VALUES:
                field["texts"], field["many"] = {}, True
        return at, hashed

    def close(self, lines: int, unreadable: int) -> Meta:
        return {
            "version": VERSION,
            "lines": lines,
            "unreadable": unreadable,
            "fields": [field for _, field in self._fields.values()],
            "label": answers.field_of_labels(self._sample),
            "number": answers.field_of_numbers(self._sample),
            "files": {"rows": self._rows.close(), "values": self._values.close(), "text": self._text.close()},
        }


class _Prompts:
    """The segment of a batch's input: where the request of each custom_id stands."""

    def __init__(self, into: Path) -> None:
        self._rows = _Checked(into / "rows")

    def line(self, line: bytes, offset: int) -> None:
        self._rows.write(PROMPT.pack(key_of(orjson.loads(line).get("custom_id")), offset, len(line)))

    def close(self, lines: int, unreadable: int) -> Meta:
        return {
            "version": VERSION,
            "lines": lines,
            "unreadable": unreadable,
            "fields": [],
            "label": None,
            "number": None,
            "files": {"rows": self._rows.close()},
        }


def build(source: Path, into: Path, *, prompts: bool = False, tell: Callable[[int], None] = lambda _: None) -> None:
    """Write the segment of a file into an empty folder.

    Args:
        prompts: it is a batch's input.
        tell: hears now and then how many bytes of the file were read.

    Raises:
        OSError: of either side. SpoolError: the file is none of the daemon's.
    """
    segment = _Prompts(into) if prompts else _Answers(into)
    offset = lines = unreadable = 0
    with opened(source) as file:
        for line in file:
            lines += 1
            try:
                segment.line(line, offset)
            except (ValueError, KeyError, TypeError, AttributeError, struct.error):
                unreadable += bool(line.strip())
            offset += len(line)
            if not lines % _EACH:
                tell(offset)
    (into / "meta.json").write_bytes(dumps(segment.close(lines, unreadable)))
    tell(offset)


# -- the child


def main(said: BinaryIO, out: BinaryIO) -> int:
    """Build what one JSON object says: {"jobs": [{"source", "into", "place", "prompts"}]}; tell how far each is.

    Each is built in `into` and renamed to `place` when it is whole. News are lines of JSON: [job, "read", bytes], then
    [job, "built", null] where it is there, or [job, "failed", why].
    """
    _bounded()
    for number, job in enumerate(orjson.loads(said.read())["jobs"]):
        say = partial(_say, out, number)
        why = _built(job, partial(say, "read"))
        say("failed" if why else "built", why)
    return 0


def _built(job: Mapping[str, Any], tell: Callable[[int], None]) -> str | None:
    """Return why it could not be; None where it is there."""
    into, place = Path(job["into"]), Path(job["place"])
    try:
        into.mkdir(parents=True)
        build(Path(job["source"]), into, prompts=job["prompts"], tell=tell)
        into.replace(place)
    except (OSError, InboxDaemonError, MemoryError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _say(out: BinaryIO, *news: object) -> None:
    out.write(dumps(news) + b"\n")
    out.flush()


def _bounded() -> None:
    tie_to_parent()
    os.nice(_NICE)
    with suppress(ValueError, OSError):  # where a lower limit is set already
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer, sys.stdout.buffer))
