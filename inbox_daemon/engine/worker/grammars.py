"""Why the engine could not compile what a request wants its answer to be like: a schema, choices, a regex, a grammar.

vLLM's front end parses it, the engine compiles it, and what the engine finds wrong comes back as "Internal server
error". So it is compiled once more here, by vLLM's own code, where an engine has given that answer and not before.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.structured_output.request import StructuredOutputRequest

from inbox_daemon.engine.worker.outputs import without_place

BACKEND = "xgrammar"  # vLLM's own first choice
_REMEMBERED = 256  # grammars: a file may have the same wrong one in every line
_WANTED = "what the answer is to be like"
_NO_WAY_ON = "there is a point from which it allows no text at all"
_HINT = '; for another back end, of all requests: [engine.args] structured_outputs_config = {backend = "guidance"}'


def settle(config: Any) -> None:
    """Have one back end serve all requests, where the settings leave it open.

    vLLM's "auto" takes for each request the first one that accepts it, but its engine keeps whichever came first: what
    a schema means, and whether it is refused, would depend on what others asked before.

    Args:
        config: vLLM's `StructuredOutputsConfig`.
    """
    if config.backend == "auto":
        config.backend = BACKEND


def with_hint(sentence: str) -> str:
    """Return vLLM's sentence with the setting that would help, where it refuses what only this back end lacks."""
    return f"{sentence.rstrip('.')}{_HINT}" if f"not supported by {BACKEND}" in sentence else sentence


class Grammars:
    """Compiles as the engine does.

    Args:
        config: vLLM's whole configuration.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self._manager: StructuredOutputManager | None = None
        self._problem = lru_cache(_REMEMBERED)(self._compiled)
        self._one_at_a_time = asyncio.Lock()

    async def fault(self, params: Any, *, has_failed: bool = True) -> str | None:
        """Say what is wrong with the grammar in these sampling parameters; None where there is none.

        Args:
            params: as vLLM's front end has checked them.
            has_failed: a living engine has failed the request: what can be compiled was a grammar with a dead end.
                Where none has seen it, a dead end is found that stands at the beginning.
        """
        asked = StructuredOutputRequest.from_sampling_params(params)
        if asked is None:
            return None
        async with self._one_at_a_time:
            stops = frozenset(params.all_stop_token_ids)
            problem = await asyncio.to_thread(self._problem, asked.structured_output_key, stops)
        if problem and problem is not _NO_WAY_ON:
            return f"{_WANTED} cannot be compiled: {problem}"
        return f"{_WANTED} cannot be followed: {_NO_WAY_ON}" if problem or has_failed else None

    def _compiled(self, key: Any, stops: frozenset[int]) -> str | None:
        if self._manager is None:
            self._manager = StructuredOutputManager(self._config)
        asked = SimpleNamespace(structured_output_key=key, grammar=None)
        backend = self._config.structured_outputs_config.backend
        params = SimpleNamespace(structured_outputs=SimpleNamespace(_backend=backend), all_stop_token_ids=set(stops))
        self._manager.grammar_init(
            SimpleNamespace(structured_output_request=asked, sampling_params=params, request_id="")
        )
        if (error := asked.grammar.exception()) is not None:
            return without_place(" ".join(str(error).split()))
        allowed = self._manager.backend.allocate_token_bitmask(1)
        asked.grammar.result().fill_bitmask(allowed, 0)
        return None if allowed.any() else _NO_WAY_ON
