"""For which batch sizes vLLM captures a CUDA graph, where the settings do not say: up to all the requests it takes.

vLLM's own list ends at 512, whatever `max_num_seqs` is. A larger batch is launched kernel by kernel, and where the GPU
is faster than the launching, 1,024 requests take longer to their next token than twice 512. Pure; imports no vllm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_VLLMS_LAST = 512
# Whoever sets one of these has decided, or computes more than one token a request in a step.
_DECIDED = ("enforce_eager", "cudagraph", "compilation_config", "optimization_level", "speculative")


def sizes(seats: int, args: Mapping[str, Any]) -> list[int] | None:
    """Return the batch sizes to capture; None: vLLM's own list does.

    They stand further apart the larger they are: a batch is padded to the next one by 12 % at most, and there are fewer
    of them than in vLLM's list, for each costs time at every start.

    Args:
        seats: the most requests computed at a time.
        args: `[engine.args]`.
    """
    decided = any(key.startswith(_DECIDED) for key in args)
    if decided or seats <= _VLLMS_LAST:
        return None
    chosen = [1, 2, 4]
    while chosen[-1] < seats:
        last = chosen[-1]
        chosen.append(last + (4 if last < 8 else max(8, 1 << (last.bit_length() - 4))))
    return [*(size for size in chosen if size < seats), seats]
