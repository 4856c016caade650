"""Requests that begin alike are computed side by side, and the user's file decides where that gains nothing."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import Daemon, custom_ids, jsonl, request

from inbox_daemon.request.order import Prefixes, key, leading

CHANCE = random.Random(7)


def words(count: int) -> str:
    return " ".join(
        CHANCE.choice(("score", "the", "candidate", "in", "view", "of", "paper", "seven")) for _ in range(count)
    )


def body(*texts: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text} for text in texts]}


def arranged(bodies: Sequence[dict[str, Any] | None]) -> array[int]:
    prefixes = Prefixes()
    for one in bodies:
        prefixes.add(one)
    steps = prefixes.arranged(lambda place: leading(bodies[place] or {}))
    while True:
        try:
            next(steps)
        except StopIteration as end:
            order: array[int] = end.value
            return order


def test_questions_about_one_document_come_side_by_side_behind_a_common_system_prompt() -> None:
    system, documents = words(300), [words(600) for _ in range(50)]
    order = arranged([body(system, f"{text} Question {question}") for question in range(4) for text in documents])
    assert sorted(order) == list(range(200))
    assert all(len({place % 50 for place in order[at : at + 4]}) == 1 for at in range(0, 200, 4))


def of_response(text: str, question: int) -> dict[str, Any]:
    return {
        "instructions": text,
        "input": [{"role": "user", "content": [{"type": "input_text", "text": f"{question}"}]}],
    }


SHAPES: dict[str, Callable[[str, int], dict[str, Any]]] = {
    "completions": lambda text, question: {"prompt": f"{text} Question {question}"},
    "completions of many prompts": lambda text, question: {"prompt": [f"{text} Question {question}", "another"]},
    "completions of tokens": lambda text, question: {"prompt": [*text.encode(), question]},
    "completions of many prompts of tokens": lambda text, question: {"prompt": [[*text.encode(), question], [1]]},
    "responses": lambda text, question: {"input": f"{text} Question {question}"},
    "responses with instructions": of_response,
    "responses of messages": lambda text, question: {"input": body(text, f"{question}")["messages"]},
    "embeddings": lambda text, question: {"input": [f"{text} Question {question}"]},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_what_begins_alike_comes_side_by_side_whichever_endpoint_is_asked(shape: str) -> None:
    documents = [words(300) for _ in range(20)]
    order = arranged([SHAPES[shape](text, question) for question in range(3) for text in documents])
    assert all(len({place % 20 for place in order[at : at + 3]}) == 1 for at in range(0, 60, 3)), order


def test_a_file_whose_requests_share_only_the_system_prompt_keeps_its_order() -> None:
    system = words(300)
    assert not arranged([body(system, f"Candidate {number}: {words(100)}") for number in range(500)])


def test_a_file_that_shares_nothing_keeps_its_order() -> None:
    assert not arranged([body(f"{CHANCE.random()} {words(60)}") for _ in range(3000)])


def test_a_file_that_is_grouped_already_keeps_its_order() -> None:
    documents = [words(600) for _ in range(30)]
    assert not arranged([body(f"{text} Question {question}") for text in documents for question in range(4)])


def test_texts_are_compared_a_pair_in_a_step() -> None:
    prefixes = Prefixes()
    for number in range(100):
        prefixes.add(body(f"{number} {words(10)}"))
    asked: list[int] = []
    for _ in prefixes.arranged(lambda place: (asked.append(place), b"")[1]):
        assert len(asked) <= 2
        asked.clear()
    assert not asked


def test_faulty_lines_have_a_place_in_the_order_too() -> None:
    documents = [words(400) for _ in range(20)]
    bodies: list[dict[str, Any] | None] = [body(f"{text} {n}") for n in range(3) for text in documents]
    bodies[7] = None
    assert sorted(arranged(bodies)) == list(range(60))


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
def test_texts_that_are_equal_down_to_a_depth_have_keys_that_are(common: bytes, one: bytes, other: bytes) -> None:
    depths = (64, 128, 192, 256)
    equal = sum((common + one)[:depth] == (common + other)[:depth] for depth in depths)
    assert key(common + one) >> (128 - 8 * equal) == key(common + other) >> (128 - 8 * equal)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=9),
        lambda x: (
            st.lists(x)
            | st.dictionaries(st.sampled_from(["messages", "content", "text", "input", "prompt", "tools"]), x)
        ),
    )
)
def test_no_body_is_too_strange_to_be_ordered(strange: Any) -> None:
    made = leading(
        strange if isinstance(strange, dict) else dict.fromkeys(("messages", "input", "prompt", "tools"), strange)
    )
    assert len(made) <= 4 * 65536


def test_results_come_in_the_files_order_whatever_the_order_of_computing(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    documents = [words(300) for _ in range(40)]
    asked = [request(f"q{q}-d{d}", f"{text} {q}") for q in range(3) for d, text in enumerate(documents)]
    daemon.drop("b.jsonl", jsonl(asked))
    daemon.finished("b")
    assert custom_ids(daemon.outbox("b") / "results.jsonl") == [one["custom_id"] for one in asked]
    computed = [id for part in sorted((daemon.outbox("b") / "parts").iterdir()) for id in custom_ids(part)]
    assert all(len({id.split("-")[1] for id in computed[at : at + 3]}) == 1 for at in range(0, 120, 3))
