"""Output lines: an error has the form that OpenAI's has, and what 0.2.0 wrote is read as it was meant."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from running import error_of

from inbox_daemon.batch.status import Tally
from inbox_daemon.records import Fault
from inbox_daemon.request.output import (
    answer_line,
    as_published,
    copied_line,
    error_line,
    failure,
    place_of_line,
    read_outcome,
)

ID = "batch_req_0123_7"
FAULT = Fault("invalid_url", "url null is not served", "url", "a")


def old(code: str, response: dict[str, Any] | None, **more: Any) -> bytes:
    """An error as releases up to 0.2.0 wrote it."""
    error = {"code": code, "message": "why", "line": 8, **more}
    return orjson.dumps({"id": ID, "custom_id": "a", "response": response, "error": error}) + b"\n"


def old_response(code: str, status: int) -> dict[str, Any]:
    body = {"error": {"message": "why", "code": code, "param": None}}
    return {"status_code": status, "request_id": ID, "body": body}


@pytest.mark.parametrize("status", [None, 400, 404, 429, 500])
def test_an_error_says_its_http_status_or_that_it_got_none_and_is_read_back_whole(status: int | None) -> None:
    line = error_line(ID, FAULT, 8, status)
    param = "url" if status else None
    assert error_of(orjson.loads(line)) == (8, "invalid_url", "url null is not served", param, status)
    again, said = as_published(line)
    assert (again, said.number, said.status, said.fault.custom_id) == (line, 8, status, "a")
    outcome = read_outcome(line, 7)
    assert place_of_line(line) == 7 and outcome is not None and outcome.is_error
    copied = error_of(orjson.loads(copied_line(line, "batch_req_0123_9", "b", 10)))
    assert copied == (10, *error_of(orjson.loads(line))[1:])


OLD: dict[str, tuple[bytes, int | None, bool]] = {
    "invalid_url": (old("invalid_url", None), 400, False),
    "invalid_request": (old("invalid_request", old_response("invalid_request", 400)), 400, False),
    "model_mismatch": (old("model_mismatch", None), 400, True),
    "engine_error": (old("engine_error", old_response("engine_error", 500)), 500, True),
    "batch_cancelled": (old("batch_cancelled", None), None, True),
    "batch_refused": (old("batch_refused", None), None, True),
    "engine_crash": (old("engine_crash", None), None, False),
}


@pytest.mark.parametrize("code", OLD)
def test_an_error_that_0_2_0_has_recorded_is_published_in_todays_form(code: str) -> None:
    line, status, retried = OLD[code]
    published, said = as_published(line)
    assert error_of(orjson.loads(published)) == (8, code, "why", None, status)
    assert said.may_succeed_later == retried
    outcome = read_outcome(line, 7)
    assert outcome is not None and outcome.is_error and outcome.line == line


@pytest.mark.parametrize(
    "damaged",
    [b"{}", b"[]", b'{"response":null,"error":null}', b'{"response":{"status_code":500},"error":null,"custom_id":"a"}'],
)
def test_a_line_that_is_no_output_line_of_ours_is_no_outcome(damaged: bytes) -> None:
    assert read_outcome(damaged, 7) is None


def test_an_answer_that_speaks_of_errors_is_an_answer() -> None:
    body = {"error": {"message": "m", "code": "c"}, "line": 3}
    line = orjson.dumps({"id": ID, "custom_id": "a", "response": {"status_code": 200, "body": body}, "error": None})
    assert failure(orjson.loads(line)) is None
    with pytest.raises(ValueError, match="an answer"):
        as_published(line)


def test_reasoning_tokens_are_counted_as_the_lines_say_and_are_in_the_usage_of_the_batch() -> None:
    chat = {"prompt_tokens": 9, "completion_tokens": 7, "completion_tokens_details": {"reasoning_tokens": 5}}
    response = {"input_tokens": 3, "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 2}}
    tally = Tally()
    for ticket, usage in enumerate((chat, response, {"prompt_tokens": 1, "completion_tokens": 1}, {})):
        line = answer_line(f"batch_req_a_{ticket}", f"r{ticket}", orjson.dumps({"usage": usage}))
        outcome = read_outcome(line, ticket)
        assert outcome is not None
        tally.add(outcome)
    said = tally.usage()
    assert (said["input_tokens"], said["output_tokens"]) == (13, 12)
    assert said["output_tokens_details"] == {"reasoning_tokens": 7}
