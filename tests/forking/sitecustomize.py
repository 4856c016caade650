"""In a daemon's PYTHONPATH, has its vLLM fork its processes as it does on a GPU: the CPU build insists on spawning."""

from __future__ import annotations

import os

HOW = "VLLM_WORKER_MULTIPROC_METHOD"
_set = os._Environ.__setitem__


def _set_but_how(self: os._Environ[str], key: str, value: str) -> None:
    _set(self, key, "fork" if key == HOW else value)


os._Environ.__setitem__ = _set_but_how  # type: ignore[method-assign]
