"""The tokens that an answer's `usage` counts, in the words of whichever endpoint gave it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def tokens(usage: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Return input, cached and output tokens and, of these, those of reasoning, as `records.Outcome` has them.

    0 where the answer says nothing.

    Args:
        usage: of a response's body: `prompt_tokens` and `completion_tokens`, or, of `/v1/responses`, `input_tokens`
            and `output_tokens` (OpenAI's API reference).
    """
    read = usage.get("prompt_tokens", usage.get("input_tokens"))
    details = usage.get("prompt_tokens_details", usage.get("input_tokens_details"))
    written = usage.get("completion_tokens", usage.get("output_tokens"))
    thought = usage.get("completion_tokens_details", usage.get("output_tokens_details"))
    cached, reasoning = (details or {}).get("cached_tokens"), (thought or {}).get("reasoning_tokens")
    return read or 0, cached or 0, written or 0, reasoning or 0
