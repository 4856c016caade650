"""What vLLM's responses mean as outcomes. Knows their shapes, imports no vllm."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from inbox_daemon.records import Outcome, Request
from inbox_daemon.request.output import answer_line
from inbox_daemon.request.usage import tokens
from inbox_daemon.text import dumps

_NO_PLACE = "Request must not be sent in stream mode"  # what vLLM's runner says of every answer that it cannot read

_NO_TEMPLATE = "default chat template is no longer allowed"  # in whichever release

_FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9]*(?:-[a-z0-9]+)+)(?![\w-])")
_IN_THE_COMPILER = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")


def answered(request: Request, custom_id: str, body: Any) -> Outcome:
    usage = getattr(body, "usage", None)
    counted = tokens(usage.model_dump() if usage is not None else {})
    return Outcome(request.ticket, answer_line(request.id, custom_id, _json(body)), False, *counted)


def _json(body: Any) -> bytes:
    by_alias = getattr(body, "object", None) == "response"  # as vLLM's server writes them: text.format.schema
    try:
        return bytes(body.model_dump_json(by_alias=by_alias), "utf-8")
    except (ValueError, UnicodeError):  # a lone surrogate in what the model wrote
        return dumps(body.model_dump(mode="python", by_alias=by_alias))


def aborted(body: Any) -> bool:
    if getattr(body, "status", None) == "cancelled":
        return True
    return any(getattr(choice, "finish_reason", None) == "abort" for choice in getattr(body, "choices", None) or ())


def why(output: Any) -> tuple[int | None, str, str, str | None]:
    """Return (HTTP status, code, sentence, param) of an output that is no answer; no status where vLLM gave none.

    Args:
        output: the batch runner's; None is that of an answer which was cut short.
    """
    if output is None or output.error is None:
        return None, "engine_error", "the engine aborted the request", None
    error = output.error
    status = output.response.status_code if output.response else 500
    info = getattr(error, "error", error)
    sentence = getattr(info, "message", None) or str(info)
    if sentence == _NO_PLACE:
        sentence = "the answer has no place in a line of JSON: leave encoding_format out, or set it to float or base64"
    sentence = in_settings(without_place(sentence))
    with contextlib.suppress(TypeError, ValueError):
        status = int(getattr(info, "code", status))
    return status, "engine_error" if status >= 500 else "invalid_request", sentence, getattr(info, "param", None)


def lacks_template(sentence: str) -> bool:
    """Say whether vLLM says that the model has no chat template, without which it chats with nobody."""
    return _NO_TEMPLATE in sentence


def field(param: object, body: Mapping[str, Any]) -> str | None:
    """Return what vLLM calls a parameter as the lines of errors name a field; None for what the request does not have.

    Some of vLLM's parameters are its own, `input_tokens` for one.
    """
    name = param if isinstance(param, str) else ""
    return f"body.{name}" if re.split(r"[.\[]", name)[0] in body else None


def without_place(sentence: str) -> str:
    """Return what the compiler of grammars says, without the time of day and the line of its own source."""
    return _IN_THE_COMPILER.sub("", sentence)


def in_settings(sentence: str) -> str:
    """Return what vLLM says, its command line's flags as they are called in our settings.

    Where it says that tools need --enable-auto-tool-choice, the user looks for a flag that nothing here has.
    """
    said = _FLAG.sub(lambda flag: flag[1].replace("-", "_"), sentence)
    return f"{said} (settings of [engine.args])" if said != sentence else sentence


def first_field(error: ValidationError) -> str | None:
    """Return the field of the body in which the first of these problems is, whether it is there or is lacking."""
    where = _problems(error)[0]["loc"]
    return ".".join(map(str, where[:2])) if where[:1] == ("body",) else None


def first_problem(error: ValidationError) -> str:
    problems = _problems(error)
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where}: {first['msg']}{more}"


def _problems(error: ValidationError) -> Any:
    return error.errors(include_url=False, include_input=False, include_context=False)


def is_of_content(error: object) -> bool:
    """Say whether vLLM's front end stumbled over what a request says, and not over the host or the network."""
    if not isinstance(error, Exception) or isinstance(error, OSError | MemoryError | TimeoutError):
        return False
    return not type(error).__module__.startswith(("aiohttp", "requests", "httpx", "vllm."))
