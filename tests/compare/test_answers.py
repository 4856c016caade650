"""What is read out of one answer, for every endpoint that answers with text."""

from __future__ import annotations

from typing import Any

import pytest
from outboxes import chat

from inbox_daemon.compare import answers
from inbox_daemon.compare.answers import WHOLE, Form

RESPONSE = {
    "status": "incomplete",
    "output": [
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "content": [{"type": "output_text", "text": "yes"}]},
    ],
    "usage": {"input_tokens": 3, "output_tokens": 4},
}
CALL = {"function": {"name": "look", "arguments": '{"at": 1}'}}


@pytest.mark.parametrize(
    ("body", "text", "tokens", "cut_off"),
    [
        (chat("yes"), "yes", (11, 7), False),
        (chat("yes", finish="length"), "yes", (11, 7), True),
        ({"choices": [{"text": "yes", "finish_reason": "length"}], "usage": {}}, "yes", (0, 0), True),
        (RESPONSE, "yes", (3, 4), True),
        (
            {"choices": [{"message": {"content": None, "tool_calls": [CALL]}}]},
            '[["look","{\\"at\\": 1}"]]',
            (0, 0),
            False,
        ),
        ({"data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 2}}, None, (2, 0), False),
        ({"text": "yes"}, "yes", (0, 0), False),
    ],
    ids=["chat", "chat cut off", "completion", "response", "tool call", "embedding", "transcription"],
)
def test_an_answers_text_tokens_and_end_are_found_whatever_its_endpoint(
    body: dict[str, Any], text: str | None, tokens: tuple[int, int], cut_off: bool
) -> None:
    found = answers.read(body)
    assert (found.text, (found.input_tokens, found.output_tokens), found.cut_off) == (text, tokens, cut_off)


@pytest.mark.parametrize(
    ("text", "form", "label"),
    [
        ('{"decision": "Yes "}', Form.JSON, "yes"),
        ('```json\n{"decision": "yes"}\n```', Form.FENCED, "yes"),
        ('{"decision": "ye', Form.BROKEN, None),
        ('{"decision": true}', Form.JSON, "true"),
        ('{"decision": ["yes"]}', Form.JSON, None),
        ("yes, by all means", Form.TEXT, None),
    ],
)
def test_a_label_is_read_out_of_json_with_and_without_fences(text: str, form: Form, label: str | None) -> None:
    found = answers.read(chat(text))
    assert (found.form, found.label("decision")) == (form, label)


def test_what_differs_in_case_white_space_and_width_alone_is_the_same_text() -> None:
    assert answers.digest("Yes,  of\ncourse") == answers.digest("yes, of COURSE") == answers.digest("ｙes, of course")  # noqa: RUF001
    assert answers.digest("Yes") != answers.digest("No")


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I\u2019m sorry, I can\u2019t.", True),
        ("I cannot do this.", True),
        ('{"reason": "I cannot do this"}', False),
        ("I cannot stress enough how well " + "this candidate did. " * 40, False),
        ("Yes.", False),
    ],
)
def test_a_short_answer_that_begins_like_a_refusal_looks_like_one(text: str, refused: bool) -> None:
    assert answers.read(chat(text)).looks_like_a_refusal is refused


def read_all(texts: list[str]) -> list[answers.Answer]:
    return [answers.read(chat(text)) for text in texts]


def test_the_field_of_labels_is_the_one_with_few_values_in_nearly_all_answers() -> None:
    said = [f'{{"reason": "r{n}", "decision": "{"yes" if n % 3 else "no"}", "score": {n}}}' for n in range(40)]
    assert answers.field_of_labels(read_all(said)) == "decision"
    assert answers.field_of_numbers(read_all(said)) == "score"
    assert answers.field_of_labels(read_all([*said, *["broken"] * 10])) is None, "one answer in five has none"
    assert answers.field_of_labels(read_all(["yes", "no", "yes", "no", "no"])) == WHOLE
    assert answers.field_of_labels(read_all([f"answer {n}" for n in range(40)])) is None
    assert answers.field_of_labels([]) is None
    assert answers.field_of_numbers([]) is None


@pytest.mark.parametrize(
    ("text", "bare", "form"),
    [
        ("<think>yes or no?</think>\nyes", "\nyes", Form.TEXT),
        ('so it is yes</think>{"label": "yes"}', '{"label": "yes"}', Form.JSON),
        ("<think>it never came to an end", "<think>it never came to an end", Form.TEXT),
        ("write <think>a</think> so", "write <think>a</think> so", Form.TEXT),
    ],
    ids=["thoughts", "begun by the chat template", "cut off", "an answer that shows the words"],
)
def test_what_a_model_thinks_before_its_answer_is_no_part_of_what_it_says(text: str, bare: str, form: Form) -> None:
    found = answers.read(chat(text))
    assert (found.text, found.bare, found.form) == (text, bare, form)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a": 1, "b": "x"}', '{"b":"X ", "a":1.0}', True),
        ('{"a": 1}', '```json\n{"a": 1}\n```', True),
        ('<think>hm</think>{"a": [1, {"c": 2, "b": 3}]}', '{"a": [1.0, {"b": 3, "c": 2}]}', True),
        ('{"a": 1}', '{"a": "1"}', False),
        ('{"a": [1, 2]}', '{"a": [2, 1]}', False),
        ('{"a": 1}', '{"a": 1, "b": null}', False),
        ("Yes.\n", "yes.", True),
        ('{"a": 9007199254740993}', '{"a": 9007199254740992}', False),
        ('{"deep": ' + "[" * 400 + "]" * 400 + "}", '{"deep":' + "[" * 400 + "]" * 400 + "}", False),
    ],
)
def test_two_answers_say_the_same_where_their_json_has_the_same_values_or_their_words_are_the_same(
    one: str, other: str, same: bool
) -> None:
    digests = {answers.read(chat(text)).digest for text in (one, other)}
    assert 0 not in digests
    assert (len(digests) == 1) is same


def test_what_a_field_says_is_compared_by_value_and_its_number_is_known() -> None:
    said = '{"s": "Yes ", "n": 8.0, "b": true, "none": null, "list": [1.0, "A"], "text": "8"}'
    assert list(answers.read(chat(said)).says()) == [
        ("s", "yes", None),
        ("n", "8", 8.0),
        ("b", "true", None),
        ("list", '[1,"a"]', None),
        ("text", "8", None),
    ]
    assert list(answers.read(chat('["no", "object"]')).says()) == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"data": [{"object": "score", "score": 0.25}]}, [("score", 0.25)]),
        ({"data": [{"score": 0.25}, {"score": 1}]}, [("score 1", 0.25), ("score 2", 1.0)]),
        (
            {"results": [{"index": 0, "relevance_score": 0.1}, {"index": 4, "relevance_score": 0.9}]},
            [("best", 4.0), ("score", 0.9)],
        ),
        ({"data": [{"embedding": [0.5]}]}, []),
    ],
    ids=["score", "scores", "reranking", "embedding"],
)
def test_a_score_says_its_number_and_an_embedding_nothing(body: dict[str, Any], says: list[tuple[str, float]]) -> None:
    found = answers.read(body)
    assert found.text is None
    assert [(name, number) for name, _, number in found.says()] == says
    assert bool(found.digest) is bool(says)
