"""One output line: the form in which a request's answer or error is recorded and published, OpenAI's own.

Pure. A request that got an HTTP status has a `response`, whatever it says, and `error` is null; `error` alone is for
what no HTTP status was given to. Beside OpenAI's fields a line without an answer has `line`, of the user's file.
Reads as well what releases before 0.3.0 have written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from inbox_daemon.records import Fault, Outcome
from inbox_daemon.request.usage import tokens
from inbox_daemon.text import dumps

FAULTY = 400  # the HTTP status of a line that is no request

# Errors of requests that were never at fault: dropping the same line again may well succeed.
_RETRYABLE = frozenset({"batch_cancelled", "batch_refused", "engine_error", "model_mismatch"})

_NO_STATUS = frozenset({"batch_cancelled", "batch_refused", "engine_crash"})  # before 0.3.0; all else was a faulty line


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request has no answer, as its output line says it.

    Attributes:
        number: 1-based line in the user's file.
        status: the HTTP status that it got; None where it got none.
    """

    fault: Fault
    number: int
    status: int | None

    @property
    def said(self) -> str:
        """The code and the message, as people read them."""
        return f"{self.fault.code}: {self.fault.message}"

    @property
    def may_succeed_later(self) -> bool:
        """Whether the same line, dropped again, has a chance: the ones that go to `retry.jsonl`."""
        status = self.status
        return self.fault.code in _RETRYABLE or (status is not None and (status >= 500 or status in (408, 429)))


def request_id(batch_id: str, place: int) -> str:
    """Return the output line's `id`: unique over all batches, and it says where the request stands in its file."""
    return f"{batch_id.replace('batch_', 'batch_req_', 1)}_{place}"


_PLACE = re.compile(rb'\{"id":"[^"]*_(\d+)","custom_id":')


def place_of_line(line: bytes) -> int | None:
    """Return the place of the request that this output line answers; None where it is no output line of ours."""
    match = _PLACE.match(line)
    return int(match[1]) if match else None


def answer_line(id: str, custom_id: str, body: bytes) -> bytes:
    """Return the output line of an answer; `body` is the response's body, already JSON."""
    parts = (
        b'{"id":',
        dumps(id),
        b',"custom_id":',
        dumps(custom_id),
        b',"response":{"status_code":200,"request_id":',
        dumps(id),
        b',"body":',
        body,
        b'},"error":null}\n',
    )
    return b"".join(parts)


def error_line(id: str, fault: Fault, line_number: int, status: int | None) -> bytes:
    """Return the output line of a request without an answer.

    Args:
        line_number: 1-based, in the user's file.
        status: the HTTP status that says no; None where nobody was there to give one.
    """
    response: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    if status is None:
        error = {"code": fault.code, "message": fault.message}
    else:
        kind = "server_error" if status >= 500 else "invalid_request_error"  # OpenAI's words
        said = {"message": fault.message, "type": kind, "param": fault.param, "code": fault.code}
        response = {"status_code": status, "request_id": id, "body": {"error": said}}
    whole = {"id": id, "custom_id": fault.custom_id, "line": line_number, "response": response, "error": error}
    return dumps(whole) + b"\n"


def failure(line: Mapping[str, Any]) -> Failure | None:
    """Return why the request of this output line, parsed, has no answer; None where it has one.

    Raises:
        KeyError, TypeError, AttributeError: it is no output line of ours.
    """
    response, error = line["response"], line["error"]
    status = response["status_code"] if response else None
    if error is None and status == 200:
        return None
    if "line" in line:
        number, said = line["line"], error or response["body"]["error"]
    else:
        number, said = error["line"], error
        if status is None and error["code"] not in _NO_STATUS:
            status = FAULTY
    return Failure(Fault(said["code"], said["message"], said.get("param"), line["custom_id"]), number, status)


def as_published(line: bytes) -> tuple[bytes, Failure]:
    """Return the output line of an error as it is published at the end, whichever release wrote it, and what it says.

    Raises:
        ValueError: it is an answer.
    """
    parsed = orjson.loads(line)
    said = failure(parsed)
    if said is None:
        raise ValueError("an answer, where an error should be")
    if "line" not in parsed:
        line = error_line(parsed["id"], said.fault, said.number, said.status)
    return line, said


def copied_line(line: bytes, id: str, custom_id: str, line_number: int) -> bytes:
    """Return the output line of a request that is the same as the one that `line` answers, but for its custom_id."""
    parsed = orjson.loads(line)
    said = failure(parsed)
    if said is None:
        return answer_line(id, custom_id, dumps(parsed["response"]["body"]))
    fault = Fault(said.fault.code, said.fault.message, said.fault.param, custom_id)
    return error_line(id, fault, line_number, said.status)


def read_outcome(line: bytes, ticket: int) -> Outcome | None:
    """Read back an output line of ours, to recover what is counted; None where it is damaged."""
    try:
        parsed = orjson.loads(line)
        is_error = failure(parsed) is not None
        usage = {} if is_error else parsed["response"]["body"].get("usage") or {}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return Outcome(ticket, line, is_error, *tokens(usage))
