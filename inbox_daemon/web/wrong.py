"""What is answered where a request is refused: OpenAI's error object, for every route and for the guard around them.

Pure. Nothing of a request's content stands in a message, but for short values that say which field was wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypedDict

from inbox_daemon.text import shown

NO_RETRY: Mapping[str, str] = MappingProxyType({"x-should-retry": "false"})  # OpenAI's clients retry a 409 and a 5xx
_MOST_SHOWN = 100  # characters of a value that somebody sent


class Said(TypedDict):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class Wrong(Exception):
    """A request that is refused, with all that its answer needs.

    Attributes:
        status: of HTTP.
        code: a stable word for programs; None where OpenAI has none.
        param: the field at fault.
        type: OpenAI's kind of error.
        headers: to be sent besides, such as Retry-After.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        type: str = "invalid_request_error",
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.type = status, message, code, param, type
        self.headers = headers

    def body(self) -> dict[str, Said]:
        """Return the JSON object of the answer."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def quoted(value: object) -> str:
    """Return a value that somebody sent, short and harmless, as a message may show it."""
    text = shown(value if isinstance(value, str) else repr(value))
    return f"'{text[:_MOST_SHOWN]}…'" if len(text) > _MOST_SHOWN else f"'{text}'"


def no_file(id: str) -> Wrong:
    """What is said of a file that is not there, or is another key's: OpenAI's own words."""
    return Wrong(404, f"No such File object: {shown(id)[:_MOST_SHOWN]}", param="id")


def no_batch(id: str) -> Wrong:
    """What is said of a batch that is not there, or is another key's."""
    return Wrong(404, f"No batch found with id {quoted(id)}.", "batch_not_found", "batch_id")


def missing(param: str) -> Wrong:
    """What is said where the JSON of a request lacks a field."""
    return Wrong(400, f"Missing required parameter: '{param}'.", "missing_required_parameter", param)


def missing_in_form(field: str) -> Wrong:
    """What is said where a form lacks a field."""
    return Wrong(400, f"'{field}' is a required property", "missing_required_parameter", field)


def too_large(most: int, param: str) -> Wrong:
    """What is said of a file of more bytes than `web.max_upload_bytes`; `param` says how many it has."""
    said = f"The file is too large: at most {most:,} bytes are taken (web.max_upload_bytes)."
    return Wrong(413, said, "file_too_large", param)
