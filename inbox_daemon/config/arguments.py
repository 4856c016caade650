"""vLLM's arguments that `[engine.args]` does not take, each with what to do instead.

So that what stands there has an effect, and what a request may ask of the host has one answer.
"""

from __future__ import annotations

_OF_THE_SERVER = "it is for vLLM's own server, and has no effect here; leave it out"
_OF_ITS_METRICS = "it is for vLLM's own metrics, which nothing shows here (see [metrics]); leave it out"
_OF_ITS_RUNNER = "it is for vLLM's own batch runner, and has no effect here; leave it out"

DECIDED_ELSEWHERE = {
    "model": "set engine.model instead",
    "allowed_media_domains": "set requests.allowed_media_domains instead",
    "allowed_local_media_path": "requests may never name files of this host; leave it out",
    "trust_request_chat_template": "set requests.allow_chat_template instead",
    "trust_request_mm_kwargs": "set requests.allow_media_options instead",
    "max_logprobs": "set requests.max_logprobs instead",
    "enable_log_requests": "it would write prompts into the journal; leave it out",
    "enable_log_outputs": "it would write answers into the journal; leave it out",
    "enable_log_deltas": "it would write answers into the journal; leave it out",
    "max_log_len": "no prompt is logged, however short; leave it out",
    **dict.fromkeys(("input_file", "output_file", "output_tmp_dir"), "files come and go by the spool; leave it out"),
    **dict.fromkeys(("enable_metrics", "host", "port", "url"), _OF_ITS_RUNNER),
    **dict.fromkeys(
        (
            *("sse_keep_alive_interval", "enable_force_include_usage", "enable_server_load_tracking"),
            *("enable_tokenizer_info_endpoint", "tokens_only", "enable_scale_out"),
            *("anthropic_disabled_thinking_effort", "cohere_is_reasoning_model", "cohere_format"),
        ),
        _OF_THE_SERVER,
    ),
    **dict.fromkeys(
        (
            *("show_hidden_metrics_for_version", "enable_mfu_metrics", "aggregate_engine_logging"),
            *("kv_cache_metrics", "kv_cache_metrics_sample", "cudagraph_metrics", "enable_logging_iteration_details"),
        ),
        _OF_ITS_METRICS,
    ),
}
