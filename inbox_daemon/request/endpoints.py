"""The endpoints that a request may name, and where in their bodies things stand: one table for all who ask.

Pure. The endpoints of vLLM's offline batch runner (`build_endpoint_registry`, vLLM 0.26 to 0.33), and of its server
those that OpenAI's Batch API has besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is to be known of one endpoint.

    Attributes:
        carriers: the fields in which vLLM looks for media, and which may hold many inputs.
        texts: the fields, beside messages and tools, with which a prompt may begin.
        one_prompt: a list in a carrier is one prompt, not many.
        by_chance: the same request may have another answer the next time.
    """

    carriers: tuple[str, ...]
    texts: tuple[str, ...] = ()
    one_prompt: bool = False
    by_chance: bool = False


_PAIRS = ("queries", "query", "documents", "items", "data_1", "data_2", "text_1", "text_2")
_SPEECH = Endpoint(carriers=("file_url",), by_chance=True)

ENDPOINTS: Mapping[str, Endpoint] = {
    "/v1/chat/completions": Endpoint(carriers=("messages",), one_prompt=True, by_chance=True),
    "/v1/responses": Endpoint(
        carriers=("input", "previous_input_messages"), texts=("instructions", "input"), one_prompt=True, by_chance=True
    ),
    "/v1/completions": Endpoint(carriers=("prompt",), texts=("prompt",), by_chance=True),
    "/v1/embeddings": Endpoint(carriers=("messages", "input"), texts=("input",)),
    "/v1/audio/transcriptions": _SPEECH,
    "/v1/audio/translations": _SPEECH,
} | dict.fromkeys(
    ("/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank"),
    Endpoint(carriers=_PAIRS, texts=("query", "text_1")),
)

TEXTS = tuple(dict.fromkeys(name for endpoint in ENDPOINTS.values() for name in endpoint.texts))
