"""What a request may ask of the host: each refusal names the field and the setting that would allow it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from running import Daemon, error_of, jsonl, lines, request

from inbox_daemon import config
from inbox_daemon.cli import check
from inbox_daemon.config import Config, RequestSettings
from inbox_daemon.records import Fault
from inbox_daemon.request import policy
from inbox_daemon.request.endpoints import ENDPOINTS

CHAT, EMBED, RERANK, LISTEN = "/v1/chat/completions", "/v1/embeddings", "/v1/rerank", "/v1/audio/transcriptions"
COMPLETE, RESPOND = "/v1/completions", "/v1/responses"
STRICT = RequestSettings()
OPEN = RequestSettings(
    allowed_media_domains=("media.example.org", "media.ekample.org"),
    allow_chat_template=True,
    allow_media_options=True,
    allow_prompt_logprobs=True,
    max_n=1000,
    max_logprobs=1000,
    max_inputs=100_000,
    max_schema_bytes=1_000_000,
)


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": "short"}, {"role": "user", "content": "hello"}], **fields}


def showing(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "what is this?"}, *parts]}]}


def image(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def shown_to(url: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "input_image", "image_url": url, "detail": "auto"}]}]


def fault(settings: RequestSettings, body: dict[str, Any], url: str = CHAT) -> Fault:
    found = policy.refusal(settings, url, body)
    assert found is not None, body
    return found


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def of_size(size: int) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": "x" * size}}}


ALLOWED = [
    (CHAT, chat(model="m", max_tokens=8, temperature=0.5, stop=["a"], seed=1, n=1, logprobs=True, top_logprobs=5)),
    (CHAT, chat(n=128, user="alice", metadata={"source_url": "http://not.fetched.example"}, unknown_field={"a": 1})),
    (CHAT, chat(chat_template_kwargs={"enable_thinking": False}, mm_processor_kwargs={}, chat_template=None)),
    (CHAT, chat(response_format=of_size(1000), tools=[{"type": "function", "function": {"name": "f"}}])),
    (CHAT, chat(structured_outputs={"choice": ["yes", "no"]}, tool_choice="auto", echo=False)),
    (CHAT, chat(tools=[{"function": {"strict": False, **of_size(65_536)}}, {}, 3], tool_choice="auto")),
    (CHAT, chat(tools=[{"function": {"strict": True, **of_size(65_536)}}], tool_choice="none")),
    (CHAT, chat(tools=[{"function": {"name": "f", "parameters": {"image_url": {"type": "string"}}}}])),
    (CHAT, chat(vllm_xargs={"window_size": 90}, cache_salt="x", priority=0)),
    (CHAT, showing(image("data:image/png;base64,AAAA"), {"type": "input_audio", "input_audio": {"data": "AA"}})),
    (CHAT, showing(image("DATA:image/png;base64,AAAA"), {"image_url": None, "uuid": "x"})),
    (CHAT, {"messages": "http://only.text.example"}),
    (CHAT, {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": "{}"}}]}]}),
    (EMBED, {"input": ["https://only.text.example/a.png"] * 2048}),
    (EMBED, {"input": list(range(100_000))}),
    (RERANK, {"query": "q", "documents": ["http://only.text.example"]}),
    (LISTEN, {"file_url": "data:audio/wav;base64,AAAA"}),
    (COMPLETE, {"prompt": "http://only.text.example", "logprobs": 5, "echo": True} | {"logprobs": None}),
    (COMPLETE, {"prompt": ["a"] * 2048}),
    (COMPLETE, {"prompt": ["a"] * 16, "n": 128}),
    (COMPLETE, {"prompt": list(range(100_000)), "n": 128}),
    (RESPOND, {"input": "http://only.text.example", "store": False, "background": False, "prompt": None}),
    (RESPOND, {"input": [{"role": "user", "content": "a"}] * 5000, "instructions": "b", "top_logprobs": 20}),
    (RESPOND, {"input": "a", "text": {"format": {"schema": nested(90)}}, "tools": [{"type": "custom", "name": "f"}]}),
    (CHAT, chat(store=True, prompt="of no meaning there")),
]

NEEDS_SETTING = [
    ("requests.allow_chat_template", "body.chat_template", chat(chat_template="{{ 1 }}")),
    (
        "requests.allow_chat_template",
        "body.chat_template_kwargs.chat_template",
        chat(chat_template_kwargs={"chat_template": "{{ 1 }}"}),
    ),
    ("requests.allow_media_options", "body.mm_processor_kwargs", chat(mm_processor_kwargs={"max_pixels": 10**9})),
    ("requests.allow_media_options", "body.media_io_kwargs", chat(media_io_kwargs={"video": {"num_frames": -1}})),
    ("requests.allow_prompt_logprobs", "body.prompt_logprobs", chat(prompt_logprobs=0)),
    ("requests.allow_prompt_logprobs", "body.echo", chat(echo=True)),
    ("requests.max_n", "body.n", chat(n=129)),
    ("requests.max_n", "body.n", chat(n="1_000")),
    ("requests.max_n", "body.n", chat(n=1000.0)),
    ("requests.max_logprobs", "body.top_logprobs", chat(logprobs=True, top_logprobs=21)),
    ("requests.max_schema_bytes", "body.response_format", chat(response_format=of_size(65_536))),
    ("requests.max_schema_bytes", "body.structured_outputs", chat(structured_outputs={"regex": "a" * 65_536})),
    ("requests.max_schema_bytes", "body.tools", chat(tools=[of_size(65_536)], tool_choice="required")),
    ("requests.max_schema_bytes", "body.tools", chat(tools=[{"function": {"strict": True, **of_size(65_536)}}])),
    ("requests.allowed_media_domains", "body.messages", showing(image("https://media.example.org/a.png"))),
    ("requests.allowed_media_domains", "body.messages", showing(image("HTTP://Media.Example.org:8080?x"))),
]

NEEDS_SETTING_ELSEWHERE = [
    ("requests.max_inputs", EMBED, {"input": ["a"] * 2049}),
    ("requests.max_inputs", RERANK, {"query": "q", "documents": ["a"] * 2049}),
    ("requests.max_inputs", "/score", {"text_1": "a", "text_2": ["a"] * 2049}),
    ("requests.allowed_media_domains", LISTEN, {"file_url": "https://media.example.org/a.wav"}),
    ("requests.allowed_media_domains", EMBED, {"input": showing(image("https://media.example.org/a"))["messages"]}),
    ("requests.allowed_media_domains", EMBED, {"messages": [showing(image("https://media.example.org/"))["messages"]]}),
    (
        "requests.allowed_media_domains",
        RERANK,
        {"query": {"content": [image("https://media.example.org")]}, "documents": ["d"]},
    ),
    ("requests.max_inputs", COMPLETE, {"prompt": ["a"] * 2049}),
    ("requests.max_inputs", COMPLETE, {"prompt": [[1, 2]] * 17, "n": 128}),
    ("requests.max_n", COMPLETE, {"prompt": "a", "n": 129}),
    ("requests.max_logprobs", COMPLETE, {"prompt": "a", "logprobs": 21}),
    ("requests.allow_prompt_logprobs", COMPLETE, {"prompt": "a", "logprobs": 1, "echo": True}),
    ("requests.max_logprobs", RESPOND, {"input": "a", "top_logprobs": 21}),
    ("requests.max_schema_bytes", RESPOND, {"input": "a", "text": {"format": of_size(65_536)}}),
    (
        "requests.max_schema_bytes",
        RESPOND,
        {"input": "a", "tools": [{"type": "function", "strict": True, "parameters": of_size(65_536)}]},
    ),
    ("requests.allow_media_options", RESPOND, {"input": "a", "mm_processor_kwargs": {"max_pixels": 10**9}}),
    ("requests.allow_chat_template", RESPOND, {"input": "a", "chat_template_kwargs": {"chat_template": "{{ 1 }}"}}),
    ("requests.allowed_media_domains", RESPOND, {"input": shown_to("https://media.example.org/a.png")}),
    ("requests.allowed_media_domains", RESPOND, {"input": shown_to({"url": "https://media.example.org/a.png"})}),
]

NOT_IN_A_BATCH = [
    ("background", {"background": True}),
    ("store", {"store": True}),
    ("previous_response_id", {"previous_response_id": "resp_1"}),
    ("conversation", {"conversation": {"id": "conv_1"}}),
    ("prompt", {"prompt": {"id": "pmpt_1"}}),
    ("tools", {"tools": [{"type": "function", "name": "f"}, {"type": "web_search"}]}),
    ("tools", {"tools": [{"type": "mcp", "server_label": "x", "server_url": "https://x.example"}]}),
]

# Ways to write a URL that one parser takes for the allowed host and another for something else, or for no host.
NEVER_A_URL = [
    "http://169.254.169.254/latest/meta-data/",
    "http://media.example.org@169.254.169.254/",
    "http://media.example.org\\@169.254.169.254/",
    "http://media.example.org:80@169.254.169.254/",
    "http://media.example.org.evil.example/",
    "http://media.example.org%2eevil.example/",
    "http://evil.example#media.example.org",
    "http://evil.example?media.example.org/",
    "http://[::1]/media.example.org",
    "http://0x7f000001/",
    "http://med\u0131a.example.org/",
    "http://media.e\u212aample.org/",
    "http://media.example.org\n.evil.example/",
    "http:media.example.org",
    "//media.example.org/a.png",
    " http://media.example.org/",
    "ftp://media.example.org/a.png",
    "gopher://127.0.0.1:6379/_",
    "/etc/passwd",
    "",
]


@pytest.mark.parametrize(("url", "body"), ALLOWED)
def test_what_ordinary_files_ask_for_is_allowed(url: str, body: dict[str, Any]) -> None:
    assert policy.refusal(STRICT, url, body) is None
    assert policy.refusal(OPEN, url, body) is None


@pytest.mark.parametrize(("setting", "param", "body"), NEEDS_SETTING)
def test_a_refusal_names_the_field_and_the_setting_that_allows_it(
    setting: str, param: str, body: dict[str, Any]
) -> None:
    found = fault(STRICT, body)
    assert (found.param, setting in found.message) == (param, True), found
    assert policy.refusal(OPEN, CHAT, body) is None


@pytest.mark.parametrize(("setting", "url", "body"), NEEDS_SETTING_ELSEWHERE)
def test_the_other_endpoints_are_held_to_the_same(setting: str, url: str, body: dict[str, Any]) -> None:
    assert setting in fault(STRICT, body, url).message
    assert policy.refusal(OPEN, url, body) is None


@pytest.mark.parametrize("name", ["kv_transfer_params", "ec_transfer_params", "request_id"])
def test_what_no_request_may_decide_is_refused_whatever_the_settings(name: str) -> None:
    for settings in (STRICT, OPEN):
        assert fault(settings, chat(**{name: {"remote_host": "evil.example"}})).param == f"body.{name}"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "FILE:/etc/shadow", "file:etc", "file://media.example.org/x"])
def test_files_of_the_host_are_never_read_whatever_the_settings(url: str) -> None:
    for settings in (STRICT, OPEN):
        assert "files of this host" in fault(settings, showing(image(url))).message


@pytest.mark.parametrize("url", NEVER_A_URL)
def test_a_url_that_could_mean_another_host_is_refused(url: str) -> None:
    assert fault(OPEN, showing(image(url))).code == "media_not_allowed"
    assert fault(OPEN, {"file_url": url}, LISTEN).code == "media_not_allowed"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": "http://evil.example/"},
        {"type": "text", "text": "a", "uuid": "u", "image_url": "http://evil.example/"},
        {"type": "video_url", "video_url": {"url": "http://evil.example/"}},
        {"type": "audio_url", "audio_url": {"url": "http://evil.example/"}},
        {"type": "input_image", "image_url": "http://evil.example/"},
        {"type": "some_day", "hologram_url": {"url": "http://evil.example/"}},
    ],
)
def test_media_is_found_in_every_form_that_vllm_reads(part: dict[str, Any]) -> None:
    assert fault(OPEN, showing(part)).code == "media_not_allowed"


@pytest.mark.parametrize(
    ("field", "asked"), NOT_IN_A_BATCH, ids=[f"{n}-{f}" for n, (f, _) in enumerate(NOT_IN_A_BATCH)]
)
def test_a_response_that_needs_more_than_its_own_line_is_refused_by_name_under_any_setting(
    field: str, asked: dict[str, Any]
) -> None:
    found = fault(OPEN, {"input": "hello"} | asked, RESPOND)
    assert (found.code, found.param) == ("not_supported", f"body.{field}")
    assert field in found.message and "is not served in a batch: " in found.message.replace("are not", "is not")


def test_a_schema_may_be_large_but_not_bottomless() -> None:
    assert policy.refusal(OPEN, CHAT, chat(response_format=nested(90))) is None
    for body in (
        chat(response_format=nested(300)),
        chat(structured_outputs={"json": nested(300)}),
        chat(structured_outputs={"json": orjson.dumps(nested(250)).decode()}),
        chat(tools=[nested(300)], tool_choice={"type": "function", "function": {"name": "f"}}),
    ):
        assert "levels deep" in fault(OPEN, body).message


@pytest.mark.parametrize("value", [None, True, -1, 0.5, "", "x", [], {}, [[]], {"url": {"url": []}}, [None, 1, "a"]])
def test_no_content_of_any_field_is_too_odd_to_judge(value: Any) -> None:
    names = {name for endpoint in ENDPOINTS.values() for name in endpoint.carriers} | policy._WATCHED | {"tools"}
    for url in ENDPOINTS:
        for name in names:
            policy.refusal(STRICT, url, {"tool_choice": "required", name: value})
        policy.refusal(STRICT, url, dict.fromkeys(names, value))
        policy.refusal(STRICT, url, {"messages": [value, {"content": value}, {"content": [{"image_url": value}]}]})


def test_vllm_gets_the_same_rules_in_its_own_words() -> None:
    closed, opened = policy.for_vllm(STRICT), policy.for_vllm(OPEN)
    assert closed["allowed_media_domains"] == ["none.invalid"]  # an empty list would mean every host
    assert opened["allowed_media_domains"] == ["media.example.org", "media.ekample.org"]
    assert (closed["trust_request_chat_template"], opened["trust_request_chat_template"]) == (False, True)
    assert (closed["trust_request_mm_kwargs"], opened["trust_request_mm_kwargs"]) == (False, True)
    assert (closed["max_logprobs"], opened["max_logprobs"]) == (20, 1000)
    assert set(closed) <= set(config.DECIDED_ELSEWHERE)


def test_check_and_the_daemon_refuse_the_same_lines(start_daemon: Any, tmp_path: Path) -> None:
    bodies: list[Mapping[str, Any]] = [chat(), *(body for _, _, body in NEEDS_SETTING)]
    content = jsonl([request(f"r{i}") | {"body": body} for i, body in enumerate(bodies)])
    path = tmp_path / "b.jsonl"
    path.write_bytes(content)
    checked = [(number, fault.code, fault.message) for number, fault in check.faults_of(path, Config()).found]
    daemon: Daemon = start_daemon()
    daemon.drop("b.jsonl", content)
    refused = len(NEEDS_SETTING)
    assert daemon.finished("b")["request_counts"] == {"total": refused + 1, "completed": 1, "failed": refused}
    ran = [error_of(one) for one in lines(daemon.outbox("b") / "errors.jsonl")]
    assert [error[:3] for error in ran] == checked
    opened = dataclasses.replace(Config(), requests=OPEN)
    assert check.faults_of(path, opened).count == 0


def test_judging_an_ordinary_request_takes_a_few_microseconds() -> None:
    body = chat(model="m", max_tokens=8)
    times = []
    for _ in range(20):
        before = time.perf_counter()
        for _ in range(1000):
            policy.refusal(STRICT, CHAT, body)
        times.append(time.perf_counter() - before)
    assert min(times) / 1000 < 10e-6  # measured: 0.7 µs; the bound leaves room for a slow machine
