"""How much memory vLLM takes for its KV cache on a CPU where the settings do not say."""

from __future__ import annotations

import pytest

from inbox_daemon.engine.worker.cpu_memory import for_kv_cache

GIB = 1 << 30


@pytest.mark.parametrize(("free", "weights", "expected"), [(22, 8, 7), (12, None, 6), (64, 8, 8), (6, 8, 1)])
def test_half_of_what_is_free_beside_the_weights_between_one_and_eight_gib(
    free: int, weights: int | None, expected: int
) -> None:
    assert for_kv_cache({}, {}, free * GIB, lambda: weights and weights * GIB) == expected * GIB


@pytest.mark.parametrize(
    ("args", "environment"),
    [
        ({"gpu_memory_utilization": 0.5}, {}),
        ({"kv_cache_memory_bytes": GIB}, {}),
        ({}, {"VLLM_CPU_KVCACHE_SPACE": "4"}),
    ],
)
def test_what_the_user_has_said_stays(args: dict[str, object], environment: dict[str, str]) -> None:
    def never() -> int:
        raise AssertionError("nobody needs to ask the hub")

    assert for_kv_cache(args, environment, 22 * GIB, never) is None
