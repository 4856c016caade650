"""The endpoints that vLLM serves: of each what reads a request's body and what answers it, in 0.26 to 0.33.

Chat completions, embeddings, score, rerank and audio are those of vLLM's offline batch runner; completions and
responses it has in its server alone, and they are taken from there. Beside `vllm_host` the only importer of vllm.
"""

from __future__ import annotations

import inspect
from argparse import Namespace
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic import create_model
from starlette.datastructures import State

try:  # since 0.29
    from vllm.entrypoints.launchers import run_batch as runner
except ImportError:
    from vllm.entrypoints.openai import run_batch as runner

from vllm.entrypoints.openai.completion.protocol import CompletionRequest, CompletionResponse
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest, ResponsesResponse

Handler = Callable[[Any], Awaitable[Any]]

# What of these comes out of a handler is an answer as it stands; all else is for `run_request` to make sense of.
_ANSWERS = (runner.ChatCompletionResponse, CompletionResponse, ResponsesResponse)

# A line of a batch file, as `run_request` wants it, for what the batch runner itself does not know.
_LINES = {
    "/v1/completions": create_model("CompletionLine", custom_id=(str, ...), body=(CompletionRequest, ...)),
    "/v1/responses": create_model("ResponsesLine", custom_id=(str, ...), body=(ResponsesRequest, ...)),
}


class _NoTracker:
    """Releases before 0.33 count progress through this; the daemon counts for itself."""

    def submitted(self) -> None: ...
    def completed(self) -> None: ...


_TRACKER = (_NoTracker(),) if len(inspect.signature(runner.run_request).parameters) > 2 else ()


async def handlers(client: Any, args: Namespace) -> Mapping[str, Handler | None]:
    """Return what answers each url; None where the model does not serve it.

    As `build_endpoint_registry` does it, which keeps the state that has the other two to itself.
    """
    state = State()
    await runner.init_app_state(client, state, args, await client.get_supported_tasks())

    def served(name: str, method: str = "__call__") -> Handler | None:
        return getattr(getattr(state, name, None), method, None)

    def audio(name: str, method: str, is_translation: bool) -> Handler | None:
        wrapper = runner.make_transcription_wrapper(is_translation, getattr(args, "allowed_media_domains", None))
        handler = served(name, method)
        return wrapper(handler) if handler else None

    return {
        "/v1/chat/completions": served("openai_serving_chat", "create_chat_completion"),
        "/v1/completions": served("openai_serving_completion", "create_completion"),
        "/v1/responses": served("openai_serving_responses", "create_responses"),
        "/v1/embeddings": served("serving_embedding"),
        "/v1/audio/transcriptions": audio("openai_serving_transcription", "create_transcription", False),
        "/v1/audio/translations": audio("openai_serving_translation", "create_translation", True),
    } | dict.fromkeys(("/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank"), served("serving_scores"))


def read(parsed: Any) -> Any:
    """Return a line, whose `body` is what its url's handler takes.

    Raises:
        ValidationError: what is wrong, and where; vLLM's own validators raise other things besides.
    """
    if parsed["url"] == "/v1/responses":
        parsed["body"]["store"] = False  # OpenAI's default is true; where vLLM stores, it never lets go
    return _LINES.get(parsed["url"], runner.BatchRequestInput).model_validate(parsed)


async def respond(handler: Handler, body: Any) -> Any:
    """Return what the handler returns or raises."""
    try:
        return await handler(body)
    except Exception as error:
        return error


async def understood(response: Any, line: Any) -> tuple[Any, Any]:
    """Return the answer in a response to this line and, where there is none, vLLM's output that says why not."""
    if isinstance(response, _ANSWERS):
        return response, None
    output = await runner.run_request(_said(response), line, *_TRACKER)
    return (output.response.body if output.error is None and output.response else None), output


def _said(response: Any) -> Handler:
    async def handler(_: Any) -> Any:
        if isinstance(response, Exception):
            raise response
        return response

    return handler
