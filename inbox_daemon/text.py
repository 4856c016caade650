"""Text of whatever origin, made fit for logs, terminals and JSON: the one door through which it is shown."""

from __future__ import annotations

import re
from typing import Any

import orjson

# Control characters, line ends and changes of direction that other people's terminals obey; halves of characters.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def shown(text: str) -> str:
    """Return text of unknown origin, such as a file's name, so that logs, terminals and JSON can carry it."""
    return _UNPRINTABLE.sub("_", text)


def dumps(value: Any, *, indent: bool = False) -> bytes:
    """JSON as orjson writes it; a lone surrogate, which no UTF-8 can carry, becomes U+FFFD."""
    option = orjson.OPT_INDENT_2 if indent else 0
    try:
        return orjson.dumps(value, option=option)
    except TypeError:
        return orjson.dumps(_without_surrogates(value), option=option)


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_surrogates(item) for item in value]
    return value
