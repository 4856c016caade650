"""The daemon beside vLLM's own batch runner: one broad file through both, with the same model and engine arguments.

One request at a time (`max_num_seqs = 1`): what is computed beside a request changes the last digits of its logprobs.
Not in the file: grammars that cannot be compiled, of which vLLM says what depends on who asked before
(`test_vllm_faults`), and endpoints that the batch runner does not have (`test_vllm`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from engines import LOADED
from running import VLLM_ENVIRONMENT, Daemon, error_of, jsonl, lines, proven, request

from inbox_daemon.engine.worker.outputs import in_settings

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]

ARGUMENTS = {"max_num_seqs": 1, "enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
ALWAYS = ["--enforce-eager", "--max-model-len", "2048"]  # what `running.VLLM_SETTINGS` gives to every daemon
OURS = ["--enable-prompt-tokens-details"]  # what the daemon adds, where it shows in an answer


def chat(custom_id: str, text: str = "tell me a story", **body: Any) -> dict[str, Any]:
    return request(custom_id, text, **{"temperature": 0, **body})


def turns(custom_id: str, *messages: tuple[str, Any], **body: Any) -> dict[str, Any]:
    return chat(custom_id, messages=[{"role": role, "content": content} for role, content in messages], **body)


def elsewhere(custom_id: str, url: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def image(url: str) -> list[dict[str, Any]]:
    return [{"type": "image_url", "image_url": {"url": url}}]


SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "f", "description": "does it", "parameters": SCHEMA}}
CALLED = {"id": "call", "type": "function", "function": {"name": "f", "arguments": "{}"}}
AFTER_A_TOOL = [
    {"role": "user", "content": "do it"},
    {"role": "assistant", "content": "", "tool_calls": [CALLED]},
    {"role": "tool", "tool_call_id": "call", "content": "done"},
]
ANSWERED = [
    chat("plain"),
    turns("system", ("system", "be brief"), ("user", "hello")),
    turns("developer", ("developer", "be brief"), ("user", "hello")),
    turns("turns", ("user", "one"), ("assistant", "two"), ("user", "three")),
    turns("parts", ("user", [{"type": "text", "text": "hello "}, {"type": "text", "text": "you"}])),
    turns("role", ("nobody", "hello")),
    chat("unicode", "漢字 😀 é\0\n\ttab"),
    chat("empty", ""),
    chat("max-completion", max_tokens=None, max_completion_tokens=5),
    chat("min", min_tokens=8, ignore_eos=True),
    chat("stop", stop="e"),
    chat("stops", stop=["a", "i"], include_stop_str_in_output=True),
    chat("stop-tokens", stop_token_ids=list(range(100, 1000))),
    chat("bad-words", bad_words=["the"]),
    chat("bias", logit_bias={"500": 100}),
    chat("allowed", allowed_token_ids=[300, 301, 302]),
    chat("penalties", frequency_penalty=1.5, presence_penalty=1, repetition_penalty=1.3),
    chat("top", top_k=5, top_p=0.5, min_p=0.1),
    chat("seeded", seed=7, temperature=0.8),
    chat("two", seed=7, temperature=0.8, n=2),
    chat("beam", use_beam_search=True, n=2, length_penalty=0.5),
    chat("logprobs", logprobs=True, top_logprobs=5),
    chat("token-names", logprobs=True, top_logprobs=2, return_tokens_as_token_ids=True),
    chat("tokens", return_token_ids=True),
    chat("special", skip_special_tokens=False, spaces_between_special_tokens=False),
    chat("object", response_format={"type": "json_object"}),
    chat("schema", response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}),
    chat("json", structured_outputs={"json": SCHEMA}),
    chat("choice", structured_outputs={"choice": ["yes", "no"]}),
    chat("regex", structured_outputs={"regex": "[0-9]{3}"}),
    chat("grammar", structured_outputs={"grammar": 'root ::= "a" | "b"'}),
    chat("tools", tools=[TOOL]),
    chat("tool-none", tools=[TOOL], tool_choice="none"),
    chat("tool-required", tools=[TOOL], tool_choice="required", max_tokens=64),
    chat("tool-named", tools=[TOOL], tool_choice={"type": "function", "function": {"name": "f"}}, max_tokens=64),
    chat("tool-turn", messages=AFTER_A_TOOL),
    turns("go-on", ("user", "a"), ("assistant", "b"), add_generation_prompt=False, continue_final_message=True),
    chat("template-options", chat_template_kwargs={"enable_thinking": False}, documents=[{"title": "a", "text": "b"}]),
    chat("truncated", "one two three four five " * 20, truncate_prompt_tokens=16),
    chat("ignored", nobody_knows={"a": 1}, guided_choice=["a"], user="alice", metadata={"a": "b"}),
]
REFUSED_BY_VLLM = [
    chat("hot", temperature=99),
    chat("top-p", top_p=2),
    chat("penalty", frequency_penalty=9),
    chat("greedy-two", n=2),
    chat("none", max_tokens=0),
    chat("too-many", max_tokens=4000),
    chat("too-long", "漢" * 1200),
    chat("thinking", thinking_token_budget=4),  # the sentence has flags of vLLM's command line
    chat("no-messages", messages=[]),
    turns("picture", ("user", image("data:image/png;base64,AAAA"))),
    elsewhere("embedding", "/v1/embeddings", input="hello"),
    elsewhere("audio", "/v1/audio/transcriptions", file_url="data:audio/wav;base64,AAAA"),
]
REFUSED_BY_A_SETTING = [
    (chat("prompt-logprobs", prompt_logprobs=1), "requests.allow_prompt_logprobs"),
    (chat("many-logprobs", logprobs=True, top_logprobs=50), "requests.max_logprobs"),
    (chat("many", n=129, temperature=1), "requests.max_n"),
    (chat("template", chat_template="{{ 1 }}"), "requests.allow_chat_template"),
    (turns("remote", ("user", image("http://media.example.org/a.png"))), "requests.allowed_media_domains"),
    (chat("other-model", model="somebody/else"), "[models.aliases]"),
]
FATAL_TO_RUN_BATCH = [  # it reads all lines before it runs any, and ends at the first that its models do not take
    chat("no-schema", response_format={"type": "json_schema"}),
    chat("unknown-tool", tools=[TOOL], tool_choice={"type": "function", "function": {"name": "g"}}),
    chat("two-rules", structured_outputs={"regex": "a", "choice": ["b"]}),
]
FOR_RUN_BATCH = [*ANSWERED, *REFUSED_BY_VLLM, *[line for line, _ in REFUSED_BY_A_SETTING]]

READS = """
import sys
from vllm.entrypoints.launchers.run_batch import BatchRequestInput
for line in sys.stdin:
    try:
        BatchRequestInput.model_validate_json(line)
    except Exception as error:
        print(error)
"""


def run_batch(model: Path, given: Path, output: Path, log: Path) -> subprocess.Popen[bytes]:
    flags = ["--model", str(model), "--input-file", str(given), "--output-file", str(output), *ALWAYS, *OURS]
    for name, value in ARGUMENTS.items():
        flags += ["--" + name.replace("_", "-"), *([] if value is True else [str(value)])]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.run_batch", *flags]
    with log.open("wb") as written:
        return subprocess.Popen(command, stdout=written, stderr=written, env=os.environ | VLLM_ENVIRONMENT)


def compared(body: dict[str, Any]) -> dict[str, Any]:
    """An answer less what no two runs of vLLM have in common."""
    del body["id"], body["created"]  # drawn at random; the time
    del body["system_fingerprint"]  # a hash of all engine arguments, and the daemon's have a scheduling policy
    if details := body["usage"]["prompt_tokens_details"]:  # None for a beam search
        del details["cached_tokens"]  # depends on what was computed before, and the daemon's order is its own
    for choice in body["choices"]:
        for call in choice["message"].get("tool_calls", ()):
            del call["id"]  # drawn at random
    return body


def as_ours(error: Any, model: str) -> tuple[str, str | None, str]:
    """What run-batch says of a request: the message, the field and the kind of error, in the daemon's form."""
    if isinstance(error, str):  # of what never came to vLLM's handlers it has no error object, and words of its own
        return error.replace("Model does not support endpoint:", f"{model} does not serve"), None, "BadRequestError"
    info = error["error"]
    # Ours are named as they stand in the line, and the settings have no flags; `input_tokens` is no field at all.
    param = f"body.{info['param']}" if info["param"] not in (None, "input_tokens") else None
    return in_settings(info["message"]), param, info["type"]


def by_id(*paths: Path) -> Mapping[str, dict[str, Any]]:
    return {line["custom_id"]: line for path in paths for line in lines(path)}


def test_of_61_requests_each_is_answered_as_by_run_batch_or_refused_by_a_setting_that_its_error_names(
    start_daemon: Callable[..., Daemon], tiny_model: Path, tmp_path: Path
) -> None:
    given, original = tmp_path / "given.jsonl", tmp_path / "broad.jsonl"
    given.write_bytes(jsonl(FOR_RUN_BATCH))
    original.write_bytes(jsonl([*FOR_RUN_BATCH, *FATAL_TO_RUN_BATCH]))
    assert len(lines(given)) == 58 and len(lines(original)) == 61

    settings = "".join(f"{name} = {orjson.dumps(value).decode()}\n" for name, value in ARGUMENTS.items())
    daemon = start_daemon(kind="vllm", arguments=["--model", str(tiny_model)], settings=settings)
    daemon.drop("broad.jsonl", original.read_bytes())
    output, log = tmp_path / "output.jsonl", tmp_path / "run-batch.log"
    peer = run_batch(tiny_model, given, output, log)
    try:
        status = daemon.finished("broad", LOADED)
        assert peer.wait(LOADED) == 0, log.read_text()
    finally:
        peer.kill()
        peer.wait()
    folder = daemon.outbox("broad")
    theirs = by_id(output)
    answers, errors = by_id(folder / "results.jsonl"), by_id(folder / "errors.jsonl")
    assert len(theirs) == 58 and status["engine_deaths"] == 0
    proven(daemon, "broad", original)

    assert list(answers) == [line["custom_id"] for line in ANSWERED]
    for custom_id, line in answers.items():
        assert theirs[custom_id]["error"] is None, theirs[custom_id]
        assert compared(line["response"]["body"]) == compared(theirs[custom_id]["response"]["body"]), custom_id
        assert line["response"]["status_code"] == theirs[custom_id]["response"]["status_code"] == 200

    for custom_id in [line["custom_id"] for line in REFUSED_BY_VLLM]:
        mine, other = error_of(errors.pop(custom_id)), theirs[custom_id]
        message, param, kind = as_ours(other["error"], str(tiny_model))
        assert (mine.message, mine.param, mine.status) == (message, param, other["response"]["status_code"])
        assert kind == "BadRequestError" and mine.code in ("invalid_request", "unsupported_endpoint")  # OpenAI's words

    for line, setting in REFUSED_BY_A_SETTING:
        mine = error_of(errors.pop(line["custom_id"]))
        assert setting in mine.message and mine.status == 400, mine

    command = [sys.executable, "-c", READS]
    read = subprocess.run(command, input=jsonl(FATAL_TO_RUN_BATCH), stdout=subprocess.PIPE, check=True)
    refusals = read.stdout.decode().splitlines()
    for line, refusal in zip(FATAL_TO_RUN_BATCH, refusals, strict=True):
        mine = error_of(errors.pop(line["custom_id"]))
        assert (mine.message, mine.status, mine.code) == (refusal, 400, "invalid_request")
    assert not errors
