"""What vLLM has to be told so that it loads adapters (LoRA), read from the adapters themselves. Imports no vllm."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from inbox_daemon.config import names
from inbox_daemon.hub import answers, contents

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM has kernels for
_AT_A_TIME = 8  # adapters in one step; each takes GPU memory


def arguments(settings: Mapping[str, Any], on_gpu: bool) -> dict[str, Any]:
    """Return the arguments that the adapters in `lora_modules` need; {} where there is none.

    Args:
        settings: `[engine.args]`.
        on_gpu: whether vLLM has its kernels for GPUs. Those for CPUs give a request without an adapter the last slot's
            where others in its step have one (0.32), so that one stays empty there.
    """
    modules = names.modules(settings)
    if not modules:
        return {}
    largest = max(map(_rank_of, modules))
    fitting = next((rank for rank in _RANKS if rank >= largest), _RANKS[-1])
    ranks = {"max_lora_rank": fitting} if largest else {}
    slots = min(len(modules), _AT_A_TIME) if on_gpu else len(modules) + 1
    return {"enable_lora": True, "max_loras": slots} | ranks


def problem(settings: Mapping[str, Any], on_gpu: bool) -> str | None:
    """Return why these settings would have an adapter answer for the model; None where they do not."""
    count, slots = len(names.modules(settings)), settings.get("max_loras")
    if on_gpu or not count or not isinstance(slots, int) or slots > count:
        return None
    return (
        f"max_loras = {slots}: on a CPU one more than adapters, {count + 1}, or the last of them answers for the model"
    )


def _rank_of(module: Any) -> int:
    """Return an adapter's rank; 0 where it is no folder on this host, and vLLM will find out."""
    with suppress(ValueError, AttributeError, TypeError):
        return answers.rank(contents.adapter(Path(names.folder_of(module))))
    return 0
