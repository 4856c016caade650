"""The fields of requests that vLLM would ignore, and what does the same under another name.

Pure. Owns the names that vLLM knows: those of its request models in 0.26 to 0.33 together, which the tests hold against
the models of the release at hand. Refuses nothing: vLLM answers such a request, and the answer is not what was asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from inbox_daemon.request.endpoints import ENDPOINTS

_MOST = 64  # different names that are counted of one file
_WORD = re.compile(r"[\w.-]{1,40}", re.ASCII)  # what is shown of a request; any other name may be a text of it

_SAMPLING = (
    "frequency_penalty presence_penalty repetition_penalty temperature top_p top_k min_p seed logit_bias stop "
    "stop_token_ids ignore_eos include_stop_str_in_output skip_special_tokens spaces_between_special_tokens "
    "structured_outputs vllm_xargs watermarking session_id kv_transfer_params ec_transfer_params stream mm_payload "
    "return_mm_kwargs "
)
_GENERATING = _SAMPLING + (
    "n echo logprobs max_tokens min_tokens prompt_logprobs logprob_token_ids allowed_token_ids bad_words "
    "use_beam_search length_penalty response_format truncate_prompt_tokens truncation_side add_special_tokens "
    "repetition_detection thinking_token_budget stream_options stream_interval return_token_ids return_token_offsets "
    "return_tokens_as_token_ids return_weight_versions routed_experts_prompt_start "
)
_TEMPLATE = "add_generation_prompt continue_final_message chat_template chat_template_kwargs "
_MEDIA = "media_io_kwargs mm_processor_kwargs "
_EVERY = "model user priority request_id cache_salt "
_SCORING = (
    "query queries documents items data_1 data_2 text_1 text_2 top_n instruction max_tokens_per_doc "
    "max_tokens_per_query truncate_prompt_tokens truncation_side padding use_activation chat_template_kwargs "
    "mm_processor_kwargs "
)
_SPEECH = (
    "model file_url language to_language prompt hotwords response_format temperature timestamp_granularities seed n "
    "frequency_penalty presence_penalty repetition_penalty length_penalty top_p top_k min_p use_beam_search "
    "max_completion_tokens include_stop_str_in_output stream stream_include_usage stream_continuous_usage_stats "
    "vllm_xargs watermarking "
)
# Who asked and how it is filed: no answer depends on it, so nobody is told that it changes nothing.
_FILING = "metadata store service_tier safety_identifier prompt_cache_key prompt_cache_options prompt_cache_retention "

KNOWN: Mapping[str, frozenset[str]] = dict.fromkeys(ENDPOINTS, frozenset((_EVERY + _SCORING + _FILING).split())) | {
    url: frozenset(f"{names} {_FILING}".split())
    for url, names in {
        "/v1/chat/completions": _EVERY
        + _GENERATING
        + _TEMPLATE
        + _MEDIA
        + "messages documents tools tool_choice parallel_tool_calls max_completion_tokens top_logprobs "
        "reasoning_effort include_reasoning return_prompt_text return_assistant_tokens_mask",
        "/v1/completions": _EVERY + _GENERATING + "prompt prompt_embeds suffix",
        "/v1/responses": _EVERY
        + _SAMPLING
        + _MEDIA
        + "input instructions include background conversation previous_response_id previous_input_messages text tools "
        "tool_choice parallel_tool_calls max_tool_calls max_output_tokens reasoning include_reasoning top_logprobs "
        "truncation enable_response_messages chat_template_kwargs prompt",
        "/v1/embeddings": _EVERY
        + _TEMPLATE
        + _MEDIA
        + "input messages dimensions encoding_format embed_dtype endianness truncate_prompt_tokens truncation_side "
        "padding use_activation add_special_tokens",
        "/v1/audio/transcriptions": _SPEECH,
        "/v1/audio/translations": _SPEECH,
    }.items()
}

_NOTHING = "vLLM has nothing of the kind"
_GUIDED = "write structured_outputs = {{{0!r}: …}} instead, or response_format"
INSTEAD = {
    **{f"guided_{name}": _GUIDED.format(name) for name in ("json", "regex", "choice", "grammar", "json_object")},
    "structural_tag": _GUIDED.format("structural_tag"),
    "guided_whitespace_pattern": _GUIDED.format("whitespace_pattern"),
    "guided_decoding_backend": "it is one for all: [engine.args] structured_outputs_config = {backend = …}",
    "functions": "write tools instead",
    "function_call": "write tool_choice instead",
    "extra_body": "put what it holds into the body itself, as OpenAI's client for Python does",
    "extra_headers": _NOTHING,
    "extra_query": _NOTHING,
    "enable_thinking": "write chat_template_kwargs = {'enable_thinking': …} instead",
    "thinking": "write chat_template_kwargs instead, as the model's own page says",
    "best_of": "vLLM gives what n asks for; write n instead",
    "max_new_tokens": "write max_tokens instead, or max_output_tokens of /v1/responses",
    "max_length": "write max_tokens instead, or max_output_tokens of /v1/responses",
    "num_predict": "write max_tokens instead, or max_output_tokens of /v1/responses",
    "max_output_tokens": "write max_tokens instead",
    "max_tokens": "write max_output_tokens instead",
    "max_completion_tokens": "write max_output_tokens instead, or max_tokens of /v1/completions",
    "response_format": "write text = {'format': …} instead",
    "text": "write response_format instead",
    "reasoning": "write reasoning_effort instead",
    "reasoning_effort": "write reasoning = {'effort': …} instead",
    "messages": "write input instead, or ask /v1/chat/completions",
    "input": "write messages instead, or ask /v1/responses",
    "prompt": "write messages instead, or ask /v1/completions",
    "system": "write a first message of the role system instead",
    "instructions": "write a first message of the role system instead",
    "options": "Ollama's options are fields of the body itself here",
    "format": "write response_format instead",
    "keep_alive": _NOTHING,
    **dict.fromkeys(("audio", "modalities", "prediction", "verbosity", "web_search_options", "moderation"), _NOTHING),
}


class Ignored:
    """The fields of one file's requests that vLLM would ignore, counted."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}

    def note(self, url: str, body: Mapping[str, Any]) -> None:
        """Take note of one request. What is null asks for nothing."""
        known = KNOWN[url]
        if known.issuperset(body):
            return
        for name, value in body.items():
            if name in known or value is None:
                continue
            key = (url, name if _WORD.fullmatch(name) else "")
            if key in self._counts or len(self._counts) < _MOST:
                self._counts[key] = self._counts.get(key, 0) + 1

    def sentences(self) -> list[str]:
        """Say of each field how many requests have it, that it changes nothing, and what would; the most first."""
        order = sorted(self._counts.items(), key=lambda entry: -entry[1])
        return [
            f"{count:,} request{' has' if count == 1 else 's have'} {name or 'a field whose name is no word'} in the "
            f"body, which vLLM ignores at {url}{_instead(url, name)}"
            for (url, name), count in order
        ]


def _instead(url: str, name: str) -> str:
    if (step := INSTEAD.get(name)) is not None:
        return f": {step}"
    close = get_close_matches(name, KNOWN[url], 1, cutoff=0.8)
    return f": did you mean {close[0]}?" if close else ""
