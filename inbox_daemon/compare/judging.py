"""A model as judge: which of two answers serves a request better? Lines of a batch out, verdicts back, figures. Pure.

Each pair of answers is shown twice, in both orders, since a judge may prefer whatever comes first: verdicts that change
with the order count as a tie, and how many do is said. Whose they are stands in the custom_id, never in the text.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from inbox_daemon.compare import agreement
from inbox_daemon.compare.answers import normal
from inbox_daemon.compare.shapes import Judged, Strength, Sure
from inbox_daemon.request.line import MAX_CUSTOM_ID
from inbox_daemon.text import dumps

CHOICES = ("A", "B", "tie")

_SYSTEM = """\
You compare two answers to the same request. Say which one serves the request better: A, B, or tie. \
Length and style do not count."""
_ROUNDS, _CLOSE = 10_000, 1e-12  # of the search for strengths


@dataclass(frozen=True, slots=True)
class Candidate:
    """One request and what each batch answers it; "" where one does not."""

    custom_id: str
    asked: str
    answers: Sequence[str]


def asked(body: Mapping[str, Any]) -> str:
    """Return what a request asks, as the judge reads it: its messages with their roles, or its prompt."""
    messages = body.get("messages") or body.get("input") or body.get("prompt") or ""
    if isinstance(messages, str):
        return messages
    return "\n\n".join(_message(each) for each in messages)


def _message(message: Any) -> str:
    if not isinstance(message, dict):
        return str(message)
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "\n".join(part.get("text") or f"[{part.get('type')}]" for part in content)
    return f"{message.get('role', 'user')}: {content}"


def lines(candidates: Iterable[Candidate], names: Sequence[str], judge: str, criteria: str) -> Iterator[bytes]:
    """Yield a batch's lines: for every two different answers to a request one in each order.

    Args:
        names: of the batches, in the order of `Candidate.answers`.
        criteria: what a good answer is, in the user's words; "" for none.
    """
    system = f"{_SYSTEM}\n\n{criteria}".strip()
    for each in candidates:
        for first, second in combinations(range(len(names)), 2):
            if not _differ(each.answers[first], each.answers[second]):
                continue
            for one, other in ((first, second), (second, first)):
                custom_id = dumps([each.custom_id, names[one], names[other]]).decode()
                if len(custom_id) > MAX_CUSTOM_ID:
                    continue
                yield _line(custom_id, judge, system, each, one, other)


def _differ(one: str, other: str) -> bool:
    return bool(one and other) and normal(one) != normal(other)


def _line(custom_id: str, judge: str, system: str, each: Candidate, one: int, other: int) -> bytes:
    shown = (
        f"<request>\n{each.asked}\n</request>\n<answer_A>\n{each.answers[one]}\n</answer_A>\n"
        f"<answer_B>\n{each.answers[other]}\n</answer_B>\nWhich is better?"
    )
    body = {
        "model": judge,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": shown}],
        "temperature": 0,
        "max_tokens": 8,
        "structured_outputs": {"choice": list(CHOICES)},
    }
    return dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}) + b"\n"


# -- verdicts


@dataclass(slots=True)
class Verdicts:
    """What the judge said: for each request, of each (first shown, second shown), A, B or tie; and how often none."""

    said: dict[str, dict[tuple[str, str], str]]
    unreadable: int = 0


def read(answered: Iterable[tuple[str, str]]) -> Verdicts:
    """Read the judge's answers, each a (custom_id, text)."""
    verdicts = Verdicts(defaultdict(dict))
    for custom_id, text in answered:
        try:
            request, first, second = orjson.loads(custom_id)
        except (ValueError, TypeError):
            verdicts.unreadable += 1
            continue
        word = next((choice for choice in CHOICES if normal(text) == normal(choice)), None)
        if word is None:
            verdicts.unreadable += 1
        else:
            verdicts.said[request][first, second] = word
    return verdicts


def judged(verdicts: Verdicts, names: Sequence[str]) -> list[Judged]:
    """Return for each two batches how often the judge preferred which, in both orders."""
    found = []
    for first, second in combinations(names, 2):
        both = [said for said in verdicts.said.values() if (first, second) in said and (second, first) in said]
        scores = [_score(said[first, second], said[second, first]) for said in both]
        flips = sum(_worth(said[first, second]) != 1 - _worth(said[second, first]) for said in both)
        slots = [said[order] for said in both for order in ((first, second), (second, first))]
        decided = [word for word in slots if word != "tie"]
        counts = [scores.count(1.0), scores.count(0.5), scores.count(0.0)]
        found.append(
            Judged(
                first=first,
                second=second,
                requests=len(both),
                first_preferred=counts[0],
                ties=counts[1],
                second_preferred=counts[2],
                share=_share(counts),
                p=agreement.mcnemar(counts[0], counts[2]),
                changed_with_order=flips / len(both) if both else None,
                first_slot=decided.count("A") / len(decided) if decided else None,
            )
        )
    return found


def _worth(word: str) -> float:
    """What a verdict is worth to the answer that was shown first."""
    return {"A": 1.0, "B": 0.0, "tie": 0.5}[word]


def _score(shown_first: str, shown_second: str) -> float:
    """Return 1 where both orders prefer the first batch, 0 where both prefer the second, else a tie."""
    one, other = _worth(shown_first), 1 - _worth(shown_second)
    return one if one == other else 0.5


def _share(counts: Sequence[int]) -> Sure:
    """Return the share of requests that the first batch wins, ties halved, with its 95 % interval."""
    wins = np.array(counts, np.float64)
    if not wins.any():
        return {"value": None, "low": None, "high": None}

    def share(tables: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((tables[..., 0] + tables[..., 1] / 2) / tables.sum(-1), np.float64)

    low, high = agreement.interval(wins, share)
    return {"value": float(share(wins)), "low": low, "high": high}


def strengths(pairs: Sequence[Judged], names: Sequence[str]) -> list[Strength] | None:
    """Return each batch's strength by Bradley and Terry (1952), the strongest first; None where they cannot be ranked.

    They sum to 0; of two that differ by d, the stronger is preferred in 1 / (1 + exp(-d)) of the requests. None where
    one was never preferred, or always: its strength has no end.
    """
    wins = np.zeros((len(names), len(names)))
    for pair in pairs:
        one, other = names.index(pair["first"]), names.index(pair["second"])
        wins[one, other] += pair["first_preferred"] + pair["ties"] / 2
        wins[other, one] += pair["second_preferred"] + pair["ties"] / 2
    if not wins.sum(0).all() or not wins.sum(1).all():
        return None
    found = zip(names, bradley_terry(wins), strict=True)
    return [Strength(name=name, strength=float(s)) for name, s in sorted(found, key=lambda each: -each[1])]


def bradley_terry(wins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log strengths that sum to 0, by Hunter's minorisation (2004); `wins[i, j]`: of i over j."""
    power, games = np.ones(len(wins)), wins + wins.T
    for _ in range(_ROUNDS):
        new = wins.sum(1) / (games / (power[:, None] + power[None, :])).sum(1)
        new /= math.exp(float(np.log(new).mean()))
        done = bool(np.max(np.abs(new - power)) < _CLOSE)
        power = new
        if done:
            break
    return np.asarray(np.log(power), np.float64)
