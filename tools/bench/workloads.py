"""The workloads that `compare.py` times, as generators of batch requests.

Lengths are in tokens as the served model's own tokenizer counts them, its chat template included. The same arguments
give the same requests. Answers have exactly the length asked for, whatever the weights (`ignore_eos`).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import make_sample_batch

CANDIDATE_PROMPT, CANDIDATE_SYSTEM, CANDIDATE_ANSWER = 571, 330, 152
SHORT_PROMPT, SHORT_ANSWER = 69, 2
DOCUMENT, QUESTIONS, DOCUMENT_ANSWER = 1260, 4, 32
KV_SHARE = 320_000 / (500 * DOCUMENT)  # of all documents, that fits into the KV cache

Message = dict[str, str]
Request = dict[str, Any]


class Writer:
    """Writes prose of a given number of tokens.

    Tokenizers split at spaces before anything else, so tokens of words add up; `of` counts a whole request.
    """

    def __init__(self, model: str) -> None:
        from transformers import AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        prose = " ".join([make_sample_batch.SYSTEM, *make_sample_batch.DONE, *make_sample_batch.WORDS_OF_THEIR_OWN])
        words = sorted({word.strip(".,;:()*%") for word in prose.split()})
        self._words = [f" {word}" for word in words if word.isalpha()]
        self._tokens = {word: self._count(word) for word in self._words}
        self._single = [word for word in self._words if self._tokens[word] == 1]

    def prose(self, tokens: int, chance: random.Random) -> str:
        """Return words that are so many tokens, each draw of them another text."""
        drawn = chance.choices(self._words, k=tokens)
        totals = list(accumulate(self._tokens[word] for word in drawn))
        fit = next((i for i, total in enumerate(totals) if total > tokens), len(drawn))
        short = tokens - (totals[fit - 1] if fit else 0)
        return "".join(drawn[:fit] + chance.choices(self._single, k=short))

    def of(self, messages: list[Message]) -> int:
        """Return how many tokens a prompt of these messages is."""
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self._count(text)

    def around(self, before: list[Message]) -> int:
        """Return how many tokens a prompt is beside the prose of its last message."""
        return self.of([*before, {"role": "user", "content": self._single[0]}]) - 1

    def _count(self, text: str) -> int:
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def lengths(mean: int, count: int, chance: random.Random) -> list[int]:
    """Return `count` lengths from half the mean to half more, in no order; their mean is `mean`."""
    spread = [round(mean * (0.5 + (i + 0.5) / count)) for i in range(count)]
    chance.shuffle(spread)
    return spread


def candidates(writer: Writer, count: int, seed: object) -> Iterator[Request]:
    """One shared system prompt, an application and a paragraph of answer for each."""
    chance = random.Random(f"candidates {seed}")
    system = {"role": "system", "content": writer.prose(CANDIDATE_SYSTEM, random.Random("system"))}
    around = writer.around([system])
    prompts, answers = (lengths(n, count, chance) for n in (CANDIDATE_PROMPT - around, CANDIDATE_ANSWER))
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        user = {"role": "user", "content": writer.prose(prompt, chance)}
        yield _request(f"candidate-{number:06d}", [system, user], answer)


def short(writer: Writer, count: int, seed: object) -> Iterator[Request]:
    """A sentence each, a label of two tokens."""
    chance = random.Random(f"short {seed}")
    around = writer.around([])
    for number, prompt in enumerate(lengths(SHORT_PROMPT - around, count, chance)):
        user = {"role": "user", "content": writer.prose(prompt, chance)}
        yield _request(f"short-{number:06d}", [user], SHORT_ANSWER)


def documents(writer: Writer, count: int, seed: object) -> Iterator[Request]:
    """Some questions about each of many documents, question by question: the first of every document, then the next."""
    chance = random.Random(f"documents {seed}")
    texts = [writer.prose(DOCUMENT, chance) for _ in range(count // QUESTIONS)]
    for question in range(QUESTIONS):
        asked = writer.prose(12, chance)
        for number, text in enumerate(texts):
            user = {"role": "user", "content": f"{text}\n\nQuestion:{asked}?"}
            yield _request(f"document-{number:05d}-{question}", [user], DOCUMENT_ANSWER)


GENERATORS: dict[str, Callable[[Writer, int, object], Iterator[Request]]] = {
    "candidates": candidates,
    "short": short,
    "documents": documents,
}


def kv_tokens(documents: int) -> int:
    """Return the KV cache, in tokens, that is to these documents what 320,000 are to 500 of them."""
    return int(documents * DOCUMENT * KV_SHARE)


def _request(custom_id: str, messages: list[Message], answer: int) -> Request:
    body = {"messages": messages, "max_tokens": answer, "ignore_eos": True, "temperature": 0.2}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
