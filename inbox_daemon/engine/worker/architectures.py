"""Which architectures this vLLM knows: `python -m inbox_daemon.engine.worker.architectures`, their names on stdin.

For `models check`, which imports no vllm. Answers with a line of JSON; loads nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import orjson
import transformers
import vllm
from vllm.model_executor.models.registry import ModelRegistry


def known(architectures: Sequence[str]) -> dict[str, Any]:
    """Return those that vLLM has code for, and those that it runs by transformers' code."""
    own = sorted(set(architectures) & set(ModelRegistry.get_supported_archs()))
    others = [name for name in architectures if name not in own and hasattr(transformers, name)]
    return {"version": vllm.__version__, "own": own, "by_transformers": others}


if __name__ == "__main__":
    print("\n" + orjson.dumps(known(orjson.loads(sys.stdin.buffer.read()))).decode())
