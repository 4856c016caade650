"""How many replicas a host's GPUs carry where the settings do not say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inbox_daemon.engine.replicas import count, weights_of

GB = 1_000_000_000
H100 = 80 * GB


@pytest.mark.parametrize(
    ("weights", "memory", "args", "expected"),
    [
        (8 * GB, [H100, H100], {}, 2),
        (8 * GB, [H100], {}, 1),
        (8 * GB, [], {}, 1),
        (60 * GB, [H100, H100], {}, 1),  # it fits, and leaves nothing to compute with
        (30 * GB, [H100, 24 * GB], {}, 1),  # the smaller GPU decides
        (30 * GB, [H100, H100], {"gpu_memory_utilization": 0.5}, 1),
        (None, [H100, H100], {}, 1),
        (8 * GB, [H100, H100], {"tensor_parallel_size": 2}, 1),
        (8 * GB, [H100, H100], {"data-parallel-size": 1}, 1),
    ],
)
def test_each_gpu_that_holds_the_model_with_room_to_compute_gets_a_replica(
    weights: int | None, memory: list[int], args: dict[str, Any], expected: int
) -> None:
    assert count(weights, memory, args) == expected


def test_a_folders_weights_are_its_safetensors(tmp_path: Path) -> None:
    assert weights_of(str(tmp_path)) is None
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes(bytes(1000))
    assert weights_of(str(tmp_path)) == 2000
