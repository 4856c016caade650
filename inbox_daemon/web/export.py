"""What leaves the viewer: examples for a prompt, pairs of answers for training, a table of rows. Pure: marks and rows
in, lines out.

The forms are OpenAI's (messages; preference fine-tuning) and TRL's (conversational preference datasets).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product, zip_longest
from typing import Any, Literal

from inbox_daemon.compare import answers
from inbox_daemon.text import dumps
from inbox_daemon.web.cells import Cell, Message, State
from inbox_daemon.web.rows import Row

GOOD = "good", "best"
_FORMULA = "=", "+", "-", "@", "\t", "\r"  # what a spreadsheet would run


@dataclass(frozen=True, slots=True)
class Marked:
    """An answer that somebody has marked, with the prompt that it answers, as chat messages."""

    custom_id: str
    batch: str
    mark: str
    messages: Sequence[Mapping[str, Any]]
    answer: str

    @property
    def reply(self) -> dict[str, str]:
        """The answer as a message."""
        return {"role": "assistant", "content": self.answer}


# -- examples


def examples(marked: Iterable[Marked], most: int | None = None, balance: str | None = None) -> list[Marked]:
    """Return the answers that were found good, in the order in which they were marked; of a request the best one.

    Args:
        most: how many.
        balance: a field of the answers' JSON, "" for the whole answer: its values take turns, so that no label has
            more examples than another by more than one, as long as there are any.
    """
    chosen: dict[str, Marked] = {}
    for each in marked:
        if each.mark == "best" or (each.mark == "good" and each.custom_id not in chosen):
            chosen[each.custom_id] = each
    found = list(chosen.values())
    if balance is not None:
        kinds: dict[str | None, list[Marked]] = {}
        for each in found:
            kinds.setdefault(_label(each.answer, balance), []).append(each)
        found = [each for turn in zip_longest(*kinds.values()) for each in turn if each is not None]
    return found[:most]


def _label(answer: str, field: str) -> str | None:
    said = answers.read({"choices": [{"text": answer}]})
    return said.label(field) if field == answers.WHOLE else {name: text for name, text, _ in said.says()}.get(field)


def few_shot(found: Iterable[Marked]) -> Iterator[bytes]:
    """Yield a line for each example: {"messages": [the prompt…, the answer]}."""
    for each in found:
        yield dumps({"messages": [*each.messages, each.reply]}) + b"\n"


def one_prompt(found: Iterable[Marked]) -> bytes:
    """Return one list of messages to put before the next question: what all have for a system prompt stands once."""
    messages: list[Mapping[str, Any]] = []
    for each in found:
        messages += [message for message in each.messages if message.get("role") != "system" or message not in messages]
        messages.append(each.reply)
    return dumps(messages, indent=True) + b"\n"


# -- pairs


def pairs(marked: Iterable[Marked]) -> Iterator[tuple[Marked, Marked]]:
    """Yield a better and a worse answer to the same prompt: the best one, else each good one, against each bad one."""
    requests: dict[str, list[Marked]] = {}
    for each in marked:
        requests.setdefault(each.custom_id, []).append(each)
    for said in requests.values():
        better = [each for each in said if each.mark == "best"] or [each for each in said if each.mark == "good"]
        for good, bad in product(better, (each for each in said if each.mark == "bad")):
            if good.messages == bad.messages and good.answer != bad.answer:
                yield good, bad


def preferences(found: Iterable[tuple[Marked, Marked]], form: Literal["openai", "trl"]) -> Iterator[bytes]:
    """Yield a line for each pair, as OpenAI's preference fine-tuning or TRL's DPOTrainer reads it."""
    for good, bad in found:
        prompt = list(good.messages)
        if form == "trl":
            yield dumps({"prompt": prompt, "chosen": [good.reply], "rejected": [bad.reply]}) + b"\n"
        else:
            asked = {"messages": prompt, "tools": [], "parallel_tool_calls": True}
            said = {"input": asked, "preferred_output": [good.reply], "non_preferred_output": [bad.reply]}
            yield dumps(said) + b"\n"


# -- a table


def table(rows: Iterable[Row], names: Sequence[str], by: str) -> Iterator[bytes]:
    """Yield rows as CSV, UTF-8 with the mark by which spreadsheets know it. No cell begins like a formula."""
    columns = ["answer", *([by] if by else []), "error", "cut off", "output tokens", "mark", "note"]
    yield b"\xef\xbb\xbf" + _line(["custom_id", "line", "prompt", *(f"{n}: {c}" for n in names for c in columns)])
    for row in rows:
        prompt = _prompt(row.prompt) if row.prompt is not None else ""
        yield _line([row.custom_id, row.line, prompt, *(said for cell in row.cells for said in _cell(cell, by))])


def _prompt(messages: Sequence[Message]) -> str:
    return "\n\n".join(f"{each.role}: {each.text}" for each in messages)


def _cell(cell: Cell, by: str) -> list[str | int]:
    answered = cell.state is State.ANSWER
    return [
        cell.text if answered else "",
        *([dict(cell.fields).get(by, "")] if by else []),
        "" if answered else cell.text or cell.state.value,
        "yes" if cell.cut_off else "",
        cell.output_tokens if answered else "",
        cell.mark,
        cell.note,
    ]


def _line(cells: Iterable[str | int]) -> bytes:
    file = io.StringIO()
    csv.writer(file).writerow([_safe(each) if isinstance(each, str) else each for each in cells])
    return file.getvalue().encode("utf-8", "replace")


def _safe(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
