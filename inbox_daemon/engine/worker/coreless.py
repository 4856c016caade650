"""vLLM without its engine: everything that vLLM's front end says to a request, and nothing that computes.

Stands in for the process that vLLM calls EngineCore (0.26 to 0.33). Whatever vLLM would refuse is refused by its own
code, in its own words; what it would hand to its engine has nothing against it. Loads no weights, needs no GPU.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import SimpleNamespace
from typing import Any

from vllm.v1.engine.core_client import EngineCoreClient

from inbox_daemon.engine.worker.asked import Asked, note_reached

# Each prompt of a request is read by a task of its own. So many turns of the event loop later all of them have been,
# and whoever waits has heard of the one that is wrong.
_TURNS = 8

_BY_SCORE = {"cross-encoder": ("classify", "token_classify"), "late-interaction": ("token_embed",)}
_EMBEDS = ("embed", "token_embed")


class ReachedTheEngine(Exception):
    """What the engine would have computed: the end of a request that vLLM takes."""


class NoCore:
    """Stands in for an `EngineCoreClient`: each request that it gets ends with ReachedTheEngine."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self.client: Any = None  # the `AsyncLLM` that this belongs to
        self.engine_ranks_managed = [0]
        self.resources = SimpleNamespace(engine_dead=False)

    def shutdown(self, timeout: float | None = None) -> None: ...

    async def get_supported_tasks_async(self) -> tuple[str, ...]:
        return supported_tasks(self._config.model_config)

    async def add_request_async(self, request: Any) -> None:
        note_reached()
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        await self.client.abort(request.request_id, internal=True)
        raise ReachedTheEngine

    async def abort_requests_async(self, request_ids: list[str]) -> None: ...

    async def get_output_async(self) -> Any:
        await asyncio.Event().wait()

    async def reset_mm_cache_async(self) -> None: ...

    async def collective_rpc_async(self, *_: Any) -> list[Any]:
        return []

    async def add_lora_async(self, lora_request: Any) -> bool:
        return True


def is_all(asked: Asked, response: Any, url: str) -> bool:
    """Say whether a request ended where the engine would have begun: all that vLLM has to say to it is that.

    Args:
        asked: what it asked of the engine.
        response: what its handler returned or raised.
    """
    if not asked.reached:
        return False
    if isinstance(response, Exception):
        return any(isinstance(error, ReachedTheEngine) for error in _chain(response))
    # Of handlers that catch everything those of audio say 400 to it, all others 500.
    return url.startswith("/v1/audio/") or int(getattr(getattr(response, "error", None), "code", 0)) >= 500


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def supported_tasks(model: Any) -> tuple[str, ...]:
    """Return what the model would say that it can do, once it is loaded, by what vLLM knows of its architecture.

    Args:
        model: vLLM's `ModelConfig`.
    """
    if model.runner_type == "pooling":
        return _BY_SCORE.get(getattr(model, "score_type", ""), _EMBEDS)
    known = model._model_info
    if getattr(known, "supports_transcription_only", False):
        return ("transcription",)
    return ("generate", "transcription") if getattr(known, "supports_transcription", False) else ("generate",)


@asynccontextmanager
async def without_engine(building: AbstractAsyncContextManager[Any]) -> AsyncIterator[Any]:
    """Enter what builds a client of vLLM; the client that comes of it has no engine.

    Args:
        building: vLLM's own `build_async_engine_client`.
    """
    real, cores = EngineCoreClient.make_async_mp_client, []

    def make(vllm_config: Any, *_: Any, **__: Any) -> NoCore:
        cores.append(NoCore(vllm_config))
        return cores[-1]

    EngineCoreClient.make_async_mp_client = staticmethod(make)
    try:
        async with building as client:
            for core in cores:
                core.client = client
            yield client
    finally:
        EngineCoreClient.make_async_mp_client = real
