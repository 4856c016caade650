"""What vLLM is told so that it loads adapters, and that none of them answers for the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from inbox_daemon.engine.worker import adapters


def adapter(folder: Path, name: str, config: dict[str, Any]) -> dict[str, str]:
    (folder / name).mkdir()
    (folder / name / "adapter_config.json").write_bytes(orjson.dumps(config))
    return {"name": name, "path": str(folder / name)}


def test_the_rank_is_the_least_that_holds_them_all_and_is_left_to_vllm_where_no_folder_tells(tmp_path: Path) -> None:
    small, large = adapter(tmp_path, "s", {"r": 4}), adapter(tmp_path, "l", {"r": 8, "rank_pattern": {"q_proj": 12}})
    asked = {"lora_modules": [small, f"l={large['path']}"]}
    assert adapters.arguments(asked, on_gpu=True) == {"enable_lora": True, "max_loras": 2, "max_lora_rank": 16}
    assert adapters.arguments({"lora_modules": ["a=org/adapter"]}, on_gpu=True) == {"enable_lora": True, "max_loras": 1}
    assert adapters.arguments({}, on_gpu=True) == {}


@pytest.mark.parametrize(("slots", "on_gpu", "wrong"), [(1, True, False), (2, False, True), (3, False, False)])
def test_on_a_cpu_a_slot_stays_empty_since_the_last_one_answers_for_whoever_asks_for_none(
    slots: int, on_gpu: bool, wrong: bool
) -> None:
    asked = {"lora_modules": ["a=/a", "b=/b"], "max_loras": slots}
    assert (adapters.problem(asked, on_gpu) is not None) is wrong
    assert adapters.arguments({"lora_modules": ["a=/a", "b=/b"]}, on_gpu=False)["max_loras"] == 3
