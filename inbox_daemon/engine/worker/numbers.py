"""Whether an embedding or a score is made of numbers. Knows the shapes of vLLM's answers, imports no vllm.

A model whose activations overflow computes NaN. JSON has no such number: it becomes null on its way out, or a text in
base64 that nobody looks into.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

_NO_JSON = "Out of range float values are not JSON compliant"  # Python's own words for NaN in a score
SENTENCE = (
    "the model computed NaN, which is no number, where the answer was to come from: its weights are damaged, or its "
    "numbers overflow; try another dtype or no quantization in [engine.args]"
)


def lacking(response: Any, body: Any, request: Mapping[str, Any]) -> bool:
    """Say whether what was computed for a request holds something that is no finite number.

    Args:
        response: as vLLM's handler returned it: a typed answer, a `JSONResponse` with its bytes, or what it raised.
        body: the typed answer in it; None where it cannot be read as one.
        request: the body of the request.
    """
    if isinstance(response, ValueError):
        return _NO_JSON in str(response)
    if body is None:
        raw = getattr(response, "body", None)
        return getattr(response, "status_code", None) == 200 and isinstance(raw, bytes) and _has_gaps(raw)
    for one in (*(getattr(body, "data", None) or ()), *(getattr(body, "results", None) or ())):
        for name in ("embedding", "score", "relevance_score"):
            value = getattr(one, name, None)
            if value is not None and not isfinite(sum(_numbers(value, request))):
                return True
    return False


def _has_gaps(raw: bytes) -> bool:
    head, _, values = raw.partition(b'"embedding":')
    values = values.partition(b"]")[0]
    return b"null" in values or b"NaN" in values or b":NaN" in head


def _numbers(value: Any, request: Mapping[str, Any]) -> Iterable[float]:
    if isinstance(value, float | int):
        return (value,)
    if not isinstance(value, str):
        return [number for row in value for number in row] if value and isinstance(value[0], list) else value
    raw, order = base64.b64decode(value), ">" if request.get("endianness") == "big" else "<"
    match request.get("embed_dtype", "float32"):
        case "float32":
            return struct.unpack(f"{order}{len(raw) // 4}f", raw)
        case "float16":
            return struct.unpack(f"{order}{len(raw) // 2}e", raw)
        case "bfloat16":  # the upper half of a float32
            return (struct.unpack(">f", pair + b"\0\0")[0] for pair in _pairs(raw, order))
    return ()  # eight bits; what of them is no number differs from type to type


def _pairs(raw: bytes, order: str) -> Iterable[bytes]:
    pairs = (raw[at : at + 2] for at in range(0, len(raw), 2))
    return pairs if order == ">" else (pair[::-1] for pair in pairs)
