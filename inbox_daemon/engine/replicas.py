"""How many replicas of a model this host's GPUs carry, where the settings do not say: one on each that holds it whole.

Reads the size of a model's weights; imports no vllm. Where the size cannot be told, one replica is safe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

# What shares the GPUs out in a way of its own. Whoever sets one of these has decided.
_DECIDED = frozenset(
    {
        "data_parallel_size",
        "data_parallel_size_local",
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "prefill_context_parallel_size",
        "distributed_executor_backend",
        "headless",
        "nnodes",
    }
)
_WEIGHTS_AT_MOST = 0.6  # of what vLLM may take of a GPU; the rest is for the KV cache and for computing


def count(weights: int | None, memory: Sequence[int], args: Mapping[str, Any]) -> int:
    """Return how many replicas to run.

    Args:
        weights: bytes of the model's weights; None: unknown.
        memory: bytes of each visible GPU.
        args: `[engine.args]`.
    """
    if len(memory) < 2 or not weights or _DECIDED & {key.replace("-", "_") for key in args}:
        return 1
    usable = min(memory) * float(args.get("gpu_memory_utilization", 0.9))
    return len(memory) if weights <= _WEIGHTS_AT_MOST * usable else 1


def weights_of(model: str, revision: str | None = None) -> int | None:
    """Return the bytes of a model's weights: a folder's, or those of a name on Hugging Face; None where neither tells.

    Asks the hub for the list of files, not for the files; vLLM would ask it next.
    """
    folder = Path(model)
    if folder.is_dir():
        return sum(path.stat().st_size for path in folder.glob("*.safetensors")) or None
    with suppress(Exception):  # no network, no such name, a gated model: vLLM will say it better
        from huggingface_hub import HfApi

        files = HfApi().model_info(model, revision=revision, files_metadata=True, timeout=10).siblings or []
        return sum(file.size or 0 for file in files if file.rfilename.endswith(".safetensors")) or None
    return None
