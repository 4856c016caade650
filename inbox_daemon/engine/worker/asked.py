"""What a request made vLLM's front end ask of the engine, and whether numbers came of it. Imports no vllm.

An answer alone does not tell. "Internal server error" may be about a request that no engine has seen; and a model
whose numbers overflow answers 200, with text that means nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_current: ContextVar[Asked | None] = ContextVar("asked", default=None)


class Asked:
    """What one request asked of the engine.

    Attributes:
        ids: under which vLLM's front end knows what it asked; none: the engine has seen nothing of the request.
        params: the sampling parameters of the last of them; None where nothing was to be sampled.
        reached: what stands in for the engine has got it (`coreless`).
    """

    __slots__ = ("ids", "params", "reached")

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.params: Any = None
        self.reached = False


def note_reached() -> None:
    """Take note that what is computed now has come as far as the engine."""
    if (asked := _current.get()) is not None:
        asked.reached = True


class Watch:
    """Takes note of what is asked of an engine client of vLLM, request by request, and of what is no number.

    Args:
        client: an `AsyncLLM` (0.26 to 0.33).
    """

    def __init__(self, client: Any) -> None:
        self._without_numbers: set[str] = set()  # vLLM's own ids; they contain the front end's
        for name in ("generate", "encode"):
            setattr(client, name, self._noting(getattr(client, name)))
        if (processor := getattr(client, "output_processor", None)) is not None:
            processor.process_outputs = self._looking(processor.process_outputs)

    @contextmanager
    def request(self) -> Iterator[Asked]:
        """Have what this task asks of the engine, and what it starts, be noted in the value."""
        asked = Asked()
        token = _current.set(asked)
        try:
            yield asked
        finally:
            _current.reset(token)
            self._without_numbers -= self._of(asked)

    def has_no_numbers(self, asked: Asked) -> bool:
        """Say whether the model computed NaN where a request's next token was to be chosen."""
        return bool(self._without_numbers and self._of(asked))

    def _of(self, asked: Asked) -> set[str]:
        return {known for known in self._without_numbers if any(id in known for id in asked.ids)}

    def _noting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)

        def noted(*given: Any, **named: Any) -> Any:
            if (asked := _current.get()) is not None:
                arguments = signature.bind(*given, **named).arguments
                asked.ids.append(arguments["request_id"])
                asked.params = arguments.get("sampling_params")
            return function(*given, **named)

        return noted

    def _looking(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def looked(outputs: Any, *rest: Any, **options: Any) -> Any:
            for output in outputs:
                if output.num_nans_in_logits:
                    self._without_numbers.add(output.request_id)
            return function(outputs, *rest, **options)

        return looked
