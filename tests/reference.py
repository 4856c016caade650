"""Requests of every kind that OpenAI's reference has, and some that it does not: to hold `check` against a run.

For a small chat model of text alone, without a parser for tools, with 2,048 tokens. No test lives here.
"""

from __future__ import annotations

from typing import Any

from running import request

PICTURE = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
WAVE = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA="
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
FUNCTION = {"name": "weather", "description": "the weather of a city", "parameters": CITY}
TOOL = {"type": "function", "function": FUNCTION}
LONG = "語" * 1000  # three tokens each


def said(*messages: dict[str, Any], **body: Any) -> dict[str, Any]:
    return {"messages": list(messages), "max_tokens": 4, **body}


def parts(*content: dict[str, Any], **body: Any) -> dict[str, Any]:
    return said({"role": "user", "content": list(content)}, **body)


def chat(**body: Any) -> dict[str, Any]:
    return said({"role": "user", "content": "say something"}, **body)


def formatted(schema: Any, **more: Any) -> dict[str, Any]:
    return chat(response_format={"type": "json_schema", "json_schema": {"name": "it", "schema": schema, **more}})


TEXT = {"type": "text", "text": "what is this?"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
ASKED = {"role": "user", "content": "the weather of Rome?"}

CHAT: dict[str, dict[str, Any]] = {
    "plain": chat(),
    "system and turns": said(
        {"role": "system", "content": "be brief"}, ASKED, {"role": "assistant", "content": "rain"}, ASKED
    ),
    "developer": said({"role": "developer", "content": "be brief"}, ASKED),
    "name": said({"role": "user", "name": "ann", "content": "hello"}),
    "unknown role": said({"role": "robot", "content": "hello"}),
    "no role": said({"content": "hello"}),
    "no messages": {"max_tokens": 4},
    "empty messages": said(),
    "messages are text": {"messages": "hello", "max_tokens": 4},
    "empty content": said({"role": "user", "content": ""}),
    "null content": said({"role": "user", "content": None}),
    "refusal": said(ASKED, {"role": "assistant", "content": None, "refusal": "no"}, ASKED),
    "text part": parts(TEXT),
    "image part": parts(TEXT, {"type": "image_url", "image_url": {"url": PICTURE}}),
    "image of a host": parts(TEXT, {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}),
    "audio part": parts(TEXT, {"type": "input_audio", "input_audio": {"data": WAVE, "format": "wav"}}),
    "file part": parts(TEXT, {"type": "file", "file": {"file_id": "file-1"}}),
    "unknown part": parts(TEXT, {"type": "smell", "smell": "rose"}),
    "tool history": said(
        ASKED,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ),
    "tool history that is no JSON": said(
        ASKED,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{**CALL, "function": {"name": "weather", "arguments": "{city"}}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ),
    "function message": said(ASKED, {"role": "function", "name": "weather", "content": "rain"}),
    "tools": chat(tools=[TOOL]),
    "tools auto": chat(tools=[TOOL], tool_choice="auto"),
    "tools none": chat(tools=[TOOL], tool_choice="none"),
    "tools required": chat(tools=[TOOL], tool_choice="required", max_tokens=64),
    "tools named": chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "weather"}}, max_tokens=64),
    "tools named wrongly": chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "news"}}),
    "tool choice without tools": chat(tool_choice="required"),
    "tool choice unknown": chat(tools=[TOOL], tool_choice="perhaps"),
    "tools empty": chat(tools=[]),
    "tool without a name": chat(tools=[{"type": "function", "function": {"parameters": CITY}}]),
    "tool of another type": chat(tools=[{"type": "code_interpreter"}]),
    "tool strict": chat(
        tools=[{"type": "function", "function": {**FUNCTION, "strict": True}}],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        max_tokens=64,
    ),
    "parallel tool calls": chat(parallel_tool_calls=False),
    "functions": chat(functions=[FUNCTION], function_call="auto"),
    "format text": chat(response_format={"type": "text"}),
    "format object": chat(response_format={"type": "json_object"}, max_tokens=16),
    "format schema": formatted(SCHEMA, strict=True),
    "format schema that is none": formatted({"type": "thing"}),
    "format schema missing": chat(response_format={"type": "json_schema"}),
    "format unknown": chat(response_format={"type": "yaml"}),
    "structured json": chat(structured_outputs={"json": SCHEMA}),
    "structured choice": chat(structured_outputs={"choice": ["yes", "no"]}),
    "structured choice empty": chat(structured_outputs={"choice": []}),
    "structured regex": chat(structured_outputs={"regex": "[a-z]{3}"}),
    "structured regex open": chat(structured_outputs={"regex": "(open"}),
    "structured grammar": chat(structured_outputs={"grammar": 'root ::= "a" | "b"'}),
    "structured grammar twice": chat(structured_outputs={"grammar": 'root ::= "a"\nroot ::= "b"'}),
    "structured grammar endless": chat(structured_outputs={"grammar": 'root ::= root "a"'}),
    "structured length": chat(structured_outputs={"json": {"type": "string", "minLength": -1, "maxLength": 3}}),
    "structured multiple": chat(structured_outputs={"json": {"type": "integer", "multipleOf": 7}}),
    "structured items": chat(structured_outputs={"json": {"type": "array", "items": [{"type": "integer"}]}}),
    "structured tag": chat(structured_outputs={"structural_tag": '{"type": "nothing"}'}),
    "structured two": chat(structured_outputs={"regex": "a", "choice": ["a"]}),
    "stop": chat(stop="."),
    "stop four": chat(stop=["a", "b", "c", "d"]),
    "stop empty": chat(stop=[""]),
    "stop number": chat(stop=7),
    "logprobs": chat(logprobs=True, top_logprobs=3),
    "logprobs over": chat(logprobs=True, top_logprobs=21),
    "top_logprobs alone": chat(top_logprobs=3),
    "logprobs text": chat(logprobs="many"),
    "n": chat(n=2, temperature=1),
    "n greedy": chat(n=2, temperature=0),
    "n zero": chat(n=0),
    "n over": chat(n=129),
    "logit bias": chat(logit_bias={"5": 10}),
    "logit bias over": chat(logit_bias={"5": 200}),
    "logit bias outside": chat(logit_bias={"999999": 1}),
    "logit bias word": chat(logit_bias={"five": 1}),
    "prompt too long": said({"role": "user", "content": LONG}),
    "max_tokens over": chat(max_tokens=4096),
    "max_tokens zero": chat(max_tokens=0),
    "max_tokens negative": chat(max_tokens=-1),
    "max_tokens text": chat(max_tokens="ten"),
    "max_completion_tokens": {"messages": [ASKED], "max_completion_tokens": 4},
    "min_tokens over": chat(min_tokens=5),
    "stream": chat(stream=True),
    "stream_options": chat(stream_options={"include_usage": True}),
    "temperature": chat(temperature=1.5),
    "temperature negative": chat(temperature=-1),
    "temperature text": chat(temperature="hot"),
    "top_p zero": chat(top_p=0),
    "top_p over": chat(top_p=1.1),
    "top_k": chat(top_k=10),
    "top_k wrong": chat(top_k=-5),
    "min_p over": chat(min_p=2),
    "frequency_penalty": chat(frequency_penalty=1.0),
    "frequency_penalty over": chat(frequency_penalty=2.5),
    "presence_penalty under": chat(presence_penalty=-2.5),
    "repetition_penalty zero": chat(repetition_penalty=0),
    "seed": chat(seed=7),
    "seed large": chat(seed=2**63),
    "seed text": chat(seed="x"),
    "bad_words": chat(bad_words=["rain"]),
    "allowed_token_ids": chat(allowed_token_ids=[5, 6]),
    "allowed_token_ids none": chat(allowed_token_ids=[]),
    "allowed_token_ids outside": chat(allowed_token_ids=[999999]),
    "stop_token_ids": chat(stop_token_ids=[5]),
    "prompt_logprobs": chat(prompt_logprobs=1),
    "user and filing": chat(user="ann", store=True, metadata={"a": "b"}, service_tier="flex", safety_identifier="x"),
    "modalities": chat(modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"}),
    "prediction": chat(prediction={"type": "content", "content": "rain"}),
    "reasoning_effort": chat(reasoning_effort="low"),
    "reasoning_effort unknown": chat(reasoning_effort="enormous"),
    "verbosity": chat(verbosity="low"),
    "web_search_options": chat(web_search_options={}),
    "chat_template": chat(chat_template="{{ messages }}"),
    "chat_template_kwargs": chat(chat_template_kwargs={"enable_thinking": False}),
    "continue_final_message": said(
        ASKED, {"role": "assistant", "content": "it"}, continue_final_message=True, add_generation_prompt=False
    ),
    "continue and begin": said(ASKED, continue_final_message=True, add_generation_prompt=True),
    "beam search": chat(use_beam_search=True, n=2, temperature=0),
    "kv_transfer_params": chat(kv_transfer_params={"a": 1}),
    "other model": chat(model="nobody/nothing"),
    "model number": chat(model=7),
    "truncate": chat(truncate_prompt_tokens=10),
    "truncate over": chat(truncate_prompt_tokens=5000),
    "thinking budget": chat(thinking_token_budget=5),
    "xargs": chat(vllm_xargs={"a": [1, {"b": 2}]}),
}

COMPLETIONS: dict[str, dict[str, Any]] = {
    "plain": {"prompt": "once", "max_tokens": 4},
    "no prompt": {"max_tokens": 4},
    "empty prompt": {"prompt": "", "max_tokens": 4},
    "prompts": {"prompt": ["once", "twice"], "max_tokens": 4},
    "one of the prompts too long": {"prompt": ["once", LONG, "twice"], "max_tokens": 4},
    "tokens": {"prompt": [5, 6, 7], "max_tokens": 4},
    "arrays of tokens": {"prompt": [[5, 6], [7]], "max_tokens": 4},
    "tokens outside": {"prompt": [[5, 6], [999999]], "max_tokens": 4},
    "no prompts": {"prompt": [], "max_tokens": 4},
    "prompt number": {"prompt": 7, "max_tokens": 4},
    "echo": {"prompt": "once", "max_tokens": 4, "echo": True},
    "echo with logprobs": {"prompt": "once", "max_tokens": 4, "echo": True, "logprobs": 1},
    "suffix": {"prompt": "once", "suffix": "end", "max_tokens": 4},
    "logprobs": {"prompt": "once", "max_tokens": 4, "logprobs": 2},
    "logprobs over": {"prompt": "once", "max_tokens": 4, "logprobs": 50},
    "best_of": {"prompt": "once", "max_tokens": 4, "best_of": 2},
    "too long": {"prompt": LONG, "max_tokens": 4},
    "max_tokens over": {"prompt": "once", "max_tokens": 9999},
    "format schema": {
        "prompt": "once",
        "max_tokens": 8,
        "response_format": {"type": "json_schema", "json_schema": {"name": "it", "schema": {"type": "thing"}}},
    },
}

RESPONSES: dict[str, dict[str, Any]] = {
    "plain": {"input": "hello", "max_output_tokens": 4},
    "no input": {"max_output_tokens": 4},
    "messages": {"input": [{"role": "user", "content": "hello"}], "max_output_tokens": 4},
    "parts": {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}],
        "max_output_tokens": 4,
    },
    "image": {
        "input": [{"role": "user", "content": [{"type": "input_image", "image_url": PICTURE}]}],
        "max_output_tokens": 4,
    },
    "unknown part": {"input": [{"role": "user", "content": [{"type": "smell"}]}], "max_output_tokens": 4},
    "function call": {
        "input": [
            {"role": "user", "content": "weather?"},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        ],
        "max_output_tokens": 4,
    },
    "instructions": {"input": "hello", "instructions": "be brief", "max_output_tokens": 4},
    "tools": {"input": "hello", "tools": [{"type": "function", **FUNCTION}], "max_output_tokens": 4},
    "tools named": {
        "input": "hello",
        "tools": [{"type": "function", **FUNCTION}],
        "tool_choice": {"type": "function", "name": "weather"},
        "max_output_tokens": 64,
    },
    "tools required": {
        "input": "hello",
        "tools": [{"type": "function", **FUNCTION}],
        "tool_choice": "required",
        "max_output_tokens": 64,
    },
    "web search": {"input": "hello", "tools": [{"type": "web_search"}], "max_output_tokens": 4},
    "format": {
        "input": "hello",
        "text": {"format": {"type": "json_schema", "name": "it", "schema": SCHEMA}},
        "max_output_tokens": 8,
    },
    "format that is none": {
        "input": "hello",
        "text": {"format": {"type": "json_schema", "name": "it", "schema": {"type": "thing"}}},
        "max_output_tokens": 8,
    },
    "previous_response_id": {"input": "hello", "previous_response_id": "resp_1", "max_output_tokens": 4},
    "background": {"input": "hello", "background": True, "max_output_tokens": 4},
    "store": {"input": "hello", "store": True, "max_output_tokens": 4},
    "too long": {"input": LONG, "max_output_tokens": 4},
    "truncation": {"input": "hello", "truncation": "auto", "max_output_tokens": 4},
    "include logprobs": {
        "input": "hello",
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
        "max_output_tokens": 4,
    },
    "include unknown": {"input": "hello", "include": ["everything"], "max_output_tokens": 4},
    "reasoning": {"input": "hello", "reasoning": {"effort": "low"}, "max_output_tokens": 4},
    "conversation": {"input": "hello", "conversation": "conv_1", "max_output_tokens": 4},
}

OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "embeddings": ("/v1/embeddings", {"input": "hello"}),
    "score": ("/v1/score", {"text_1": "a", "text_2": "b"}),
    "rerank": ("/v1/rerank", {"query": "a", "documents": ["b", "c"]}),
    "transcription": ("/v1/audio/transcriptions", {"file_url": f"data:audio/wav;base64,{WAVE}"}),
    "moderations": ("/v1/moderations", {"input": "hello"}),
    "images": ("/v1/images/generations", {"prompt": "a rose"}),
}


def lines() -> list[dict[str, Any]]:
    """A line for each, its custom_id the endpoint and the name."""
    wanted = [
        *(("/v1/chat/completions", name, body) for name, body in CHAT.items()),
        *(("/v1/completions", name, body) for name, body in COMPLETIONS.items()),
        *(("/v1/responses", name, body) for name, body in RESPONSES.items()),
        *((url, name, body) for name, (url, body) in OTHERS.items()),
    ]
    return [request(f"{url} {name}") | {"url": url, "body": body} for url, name, body in wanted]
