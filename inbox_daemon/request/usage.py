"""The tokens that an answer's `usage` counts, in the words of whichever endpoint gave it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def tokens(usage: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return input, cached and output tokens, as `records.Outcome` has them; 0 where the answer says nothing.

    Args:
        usage: of a response's body: `prompt_tokens` and `completion_tokens`, or, of `/v1/responses`, `input_tokens`
            and `output_tokens` (OpenAI's API reference).
    """
    read = usage.get("prompt_tokens", usage.get("input_tokens"))
    details = usage.get("prompt_tokens_details", usage.get("input_tokens_details"))
    written = usage.get("completion_tokens", usage.get("output_tokens"))
    return read or 0, (details or {}).get("cached_tokens") or 0, written or 0
