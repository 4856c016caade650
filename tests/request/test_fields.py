"""What vLLM would ignore in a request is said, with a count and with what does the same under another name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from running import Daemon, jsonl, request

from inbox_daemon.request.endpoints import ENDPOINTS
from inbox_daemon.request.fields import INSTEAD, KNOWN, Ignored

CHAT, RESPOND, EMBED = "/v1/chat/completions", "/v1/responses", "/v1/embeddings"


def said(url: str, *bodies: dict[str, Any]) -> list[str]:
    ignored = Ignored()
    for body in bodies:
        ignored.note(url, body)
    return ignored.sentences()


@pytest.mark.parametrize(
    ("url", "field", "step"),
    [
        (CHAT, "guided_json", "write structured_outputs = {'json': …} instead, or response_format"),
        (CHAT, "guided_choice", "write structured_outputs = {'choice': …} instead, or response_format"),
        (CHAT, "functions", "write tools instead"),
        (CHAT, "extra_body", "put what it holds into the body itself"),
        (CHAT, "enable_thinking", "write chat_template_kwargs = {'enable_thinking': …} instead"),
        (CHAT, "temprature", "did you mean temperature?"),
        (RESPOND, "max_tokens", "write max_output_tokens instead"),
        (RESPOND, "response_format", "write text = {'format': …} instead"),
        ("/v1/completions", "messages", "ask /v1/chat/completions"),
        (EMBED, "dimension", "did you mean dimensions?"),
    ],
)
def test_a_field_that_changes_nothing_is_said_with_what_would(url: str, field: str, step: str) -> None:
    (sentence,) = said(url, {field: "x"})
    assert sentence.startswith(f"1 request has {field} in the body, which vLLM ignores at {url}: ")
    assert step in sentence


def test_a_thousand_requests_with_one_mistake_are_one_sentence_and_the_most_common_comes_first() -> None:
    first, second = said(CHAT, {"best_of": 3}, *[{"guided_regex": "a"}] * 1000, {"guided_regex": None, "model": "m"})
    assert first.startswith("1,000 requests have guided_regex ") and second.startswith("1 request has best_of ")


def test_a_name_that_may_be_a_text_of_the_request_is_not_shown() -> None:
    (sentence,) = said(CHAT, {"the patient's name\nis secret": 1}, {"x" * 41: 1})
    assert sentence.startswith("2 requests have a field whose name is no word in the body")


def test_of_a_file_of_random_names_some_are_counted() -> None:
    assert len(said(CHAT, *({f"field_{number}": 1} for number in range(1000)))) == 64


def test_how_a_request_is_filed_is_no_mistake() -> None:
    filed = {"metadata": {"a": "b"}, "store": True, "service_tier": "flex", "user": "u", "prompt_cache_key": "k"}
    assert not said(CHAT, filed) and not said(RESPOND, filed | {"safety_identifier": "s"})


def test_whatever_has_another_name_at_one_endpoint_is_unknown_at_one_at_least() -> None:
    assert not [name for name in INSTEAD if all(name in KNOWN[url] for url in ENDPOINTS)]


def test_check_the_log_and_the_status_say_it_once_for_a_batch(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    daemon.drop("guided.jsonl", jsonl([request(f"r{number}", guided_json={"type": "object"}) for number in range(40)]))
    warnings = daemon.finished("guided")["warnings"]
    assert warnings == said(CHAT, *[{"guided_json": {}}] * 40)
    assert daemon.text().count(f"guided: {warnings[0]}") == 1


ASKS_VLLM = """
import json, typing
from inbox_daemon.engine.worker import serving

runner = serving.runner
kinds = {
    "/v1/chat/completions": runner.ChatCompletionRequest,
    "/v1/completions": serving.CompletionRequest,
    "/v1/responses": serving.ResponsesRequest,
    "/v1/embeddings": runner.EmbeddingRequest,
    "/v1/score": runner.ScoreRequest,
    "/v1/rerank": runner.RerankRequest,
    "/v1/audio/transcriptions": runner.BatchTranscriptionRequest,
    "/v1/audio/translations": runner.BatchTranslationRequest,
}
def fields(kind):
    return sum(map(fields, typing.get_args(kind)), []) or list(getattr(kind, "model_fields", ()))

print(json.dumps({url: fields(kind) for url, kind in kinds.items()}))
"""


@pytest.mark.vllm
def test_every_field_of_vllms_own_request_models_is_known() -> None:
    """What other releases have besides was read from the sources of 0.26, 0.29 and 0.33."""
    command = [sys.executable, "-c", ASKS_VLLM]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for url, fields in json.loads(output.splitlines()[-1]).items():
        assert len(fields) > 10 and set(fields) - {"file"} <= KNOWN[url], url
