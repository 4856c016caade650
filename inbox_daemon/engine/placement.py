"""Where the engines of a model go: how many there are to be, and on which GPUs.

Each is an engine with a worker of its own: one worker's event loop feeds about two GPUs. Reads the size of a model's
weights and the list of GPUs, imports no vllm, and does nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from inbox_daemon.config.models import Model
from inbox_daemon.engine import Place

VISIBLE = "CUDA_VISIBLE_DEVICES"  # the name for NVIDIA's GPUs and for AMD's
# Replicas that are more than copies, or GPUs shared out in a way of its own: vLLM's business.
_VLLMS = ("data_parallel_", "enable_expert_parallel", "distributed_executor_backend", "headless", "nnodes", "node_rank")
_PER_REPLICA = ("tensor_parallel_size", "pipeline_parallel_size", "prefill_context_parallel_size")
_WEIGHTS_AT_MOST = 0.6  # of what vLLM may take of a GPU; the rest is for the KV cache and for computing


def are_ours(args: Mapping[str, Any]) -> bool:
    """Say whether replicas are engines of their own; if not, `data_parallel_size` is for vLLM to read.

    Args:
        args: `[engine.args]`.
    """
    return not any(key.startswith(_VLLMS) for key in args if key != "data_parallel_size")


def count(weights: Callable[[], int | None], memory: Sequence[int], args: Mapping[str, Any]) -> int:
    """Return how many replicas to run: what `data_parallel_size` says, else one on each GPU that holds the model whole.

    Args:
        weights: asked only where it matters for the bytes of the model's weights; None: unknown, and one is safe.
        memory: bytes of each visible GPU.
        args: `[engine.args]`.
    """
    if not are_ours(args):
        return 1
    if "data_parallel_size" in args:
        return int(args["data_parallel_size"])
    if len(memory) < 2 or any(key in args for key in _PER_REPLICA):
        return 1
    usable = min(memory) * float(args.get("gpu_memory_utilization", 0.9))
    size = weights()
    return len(memory) if size and size <= _WEIGHTS_AT_MOST * usable else 1


def visible(listed: Path = Path("/proc/driver/nvidia/gpus"), environment: Mapping[str, str] = os.environ) -> int:
    """Return how many of NVIDIA's GPUs CUDA may use, without asking the driver: never blocks. 0 where nobody says.

    Args:
        listed: the driver's list of GPUs.
        environment: where some of them may be named, or none.
    """
    there = len(list(listed.glob("*")))
    named = environment.get(VISIBLE)
    return there if named is None else min(there, len(list(filter(None, named.split(",")))))


def likely(gpus: int, args: Mapping[str, Any]) -> int:
    """Return how many replicas there are to be on so many GPUs if each holds the model whole; 1 where nothing says.

    Args:
        args: `[engine.args]`, which vLLM has not looked at yet.
    """
    try:
        replicas = count(lambda: 1, [1 << 40] * gpus, args)
    except (ValueError, TypeError):
        return 1
    return min(replicas, gpus) if gpus else replicas


def share_out(replicas: int, visible: Sequence[str], args: Mapping[str, Any]) -> list[str]:
    """Return each replica's GPUs as CUDA_VISIBLE_DEVICES names them; "": nothing to be shared out.

    Args:
        visible: the names of all GPUs.
        args: `[engine.args]`.

    Raises:
        ValueError: there are not so many, or no replica is asked for.
    """
    if replicas < 1:
        raise ValueError(f"{replicas} replicas answer nothing; 1 is the least")
    if replicas < 2 or not visible:
        return [""] * replicas
    each = math.prod(int(args.get(key, 1)) for key in _PER_REPLICA)
    if replicas * each > len(visible):
        raise ValueError(f"{replicas} replicas of {each} GPUs each need {replicas * each} GPUs; {len(visible)} visible")
    return [",".join(visible[at * each : (at + 1) * each]) for at in range(replicas)]


def weights_here(model: str, revision: str | None = None) -> int | None:
    """Return the bytes of a model's weights as they lie on this host; None where nothing tells. Asks no network."""
    if Path(model).is_dir():
        return _bytes_of(Path(model))
    from huggingface_hub import snapshot_download

    with suppress(Exception):
        return _bytes_of(Path(snapshot_download(model, revision=revision, local_files_only=True)))
    return None


def weights_of(model: str, revision: str | None = None) -> int | None:
    """Return the bytes of a model's weights: a folder's, or those of a name on Hugging Face; None where neither tells.

    Asks the hub for the list of files, not for the files; vLLM would ask it next. Where the hub cannot be asked, as on
    a host without a network, what has been downloaded from it tells.
    """
    if Path(model).is_dir():
        return _bytes_of(Path(model))
    from huggingface_hub import HfApi, snapshot_download

    with suppress(Exception):  # no network, no such name, a gated model: vLLM will say it better
        files = HfApi().model_info(model, revision=revision, files_metadata=True, timeout=10).siblings or []
        return sum(file.size or 0 for file in files if file.rfilename.endswith(".safetensors")) or None
    with suppress(Exception):
        return _bytes_of(Path(snapshot_download(model, revision=revision, local_files_only=True)))
    return None


def _bytes_of(folder: Path) -> int | None:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) or None


def environment(place: Place, *, numbered: bool = False) -> dict[str, str]:
    """Return what puts an engine onto its GPUs; each but the first with a compile cache of its own.

    vLLM's data-parallel ranks have that too: a cache that two share who compile at once is not what vLLM's is made for.

    Args:
        numbered: the settings name GPUs by number: as nvidia-smi has them, where CUDA would have the fastest first.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = os.environ.get("VLLM_CACHE_ROOT") or home / "vllm"
    gpus = {VISIBLE: place.gpus} if place.gpus else {}
    gpus |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if numbered else {}
    return gpus if place.number == 1 else gpus | {"VLLM_CACHE_ROOT": f"{root}/replica-{place.number}"}


# -- several models on one set of GPUs

_ALL_OF_A_GPU = 0.95  # of its memory: what engines may take together; each needs some beside what it is told to take


def sharing(models: Sequence[Model]) -> list[list[Model]]:
    """Return the models in groups, in their order: those of one group use the same GPUs, or some of them."""
    groups: list[list[Model]] = []
    for model in models:
        touched = [group for group in groups if any(_meet(model, other) for other in group)]
        merged = [one for group in touched for one in group]
        groups = [group for group in groups if group not in touched] + [[*merged, model]]
    return groups


def fit(models: Sequence[Model]) -> bool:
    """Say whether these models may be loaded side by side: by the shares of GPU memory that their settings give them.

    A model without `gpu_memory_utilization` takes its GPUs to itself: what vLLM would take by default is nearly all.
    """
    named = {gpu for model in models for gpu in model.gpus} or {0}
    for gpu in named:
        there = [model for model in models if not model.gpus or gpu in model.gpus]
        if len(there) > 1 and sum(map(_share, there)) > _ALL_OF_A_GPU:
            return False
    return True


def _meet(one: Model, other: Model) -> bool:
    return not one.gpus or not other.gpus or bool(set(one.gpus) & set(other.gpus))


def _share(model: Model) -> float:
    try:
        return float(model.engine.arguments.get("gpu_memory_utilization", 1.0))
    except (TypeError, ValueError):  # vLLM will say what is wrong with it
        return 1.0
