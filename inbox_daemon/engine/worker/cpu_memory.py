"""How much of the host's memory vLLM takes for its KV cache on a CPU, where nobody said so.

vLLM's own rule there is the one for GPUs: it wants 92 % of all memory, and does not start where anything else has some
of it. Pure; imports no vllm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# Whoever sets one of these has decided; the variable is vLLM's, in GiB.
_DECIDED = ("gpu_memory_utilization", "kv_cache_memory_bytes")
DECIDED_BY = "VLLM_CPU_KVCACHE_SPACE"
_LEAST = 1 << 30  # bytes; with less there is no use in starting, and vLLM will say so
_MOST = 8 << 30  # a request of 40,000 tokens to a model of 8B; vLLM takes all of it at the start, used or not


def for_kv_cache(
    args: Mapping[str, Any], environment: Mapping[str, str], free: int, weights: Callable[[], int | None]
) -> int | None:
    """Return the bytes of the KV cache: half of what is free beside the weights, 8 GiB at most; None: somebody decided.

    The other half is for what computing takes, and for those who share the host.

    Args:
        args: `[engine.args]`.
        free: bytes of memory that nobody has taken.
        weights: asked only where it matters for the bytes of the model's weights; None: unknown, and counted as 0.
    """
    if environment.get(DECIDED_BY) or any(key in args for key in _DECIDED):
        return None
    return max(_LEAST, min(_MOST, (free - (weights() or 0)) // 2))
