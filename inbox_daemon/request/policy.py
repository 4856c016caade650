"""What a request may ask of the host: which of its fields are refused, and the setting that would allow each.

Pure. A list of what is dangerous, with bounds, and not a list of all that is known: vLLM ignores fields it does not
know, and its releases add harmless ones every month, so refusing the unknown would cost users whole files and protect
nothing. Left to vLLM is what it keeps off until an engine argument turns it on (embeddings as input, priority, logits
processors and their vllm_xargs), and cache_salt, which harms nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson

from inbox_daemon.config import RequestSettings
from inbox_daemon.records import Fault
from inbox_daemon.request.endpoints import ENDPOINTS

_NEVER = {
    "kv_transfer_params": "it tells vLLM which host to fetch from, and this daemon serves from one engine",
    "ec_transfer_params": "it tells vLLM which host to fetch from, and this daemon serves from one engine",
    "request_id": "two requests in flight may not share one; custom_id is what names an answer here",
}
# Of /v1/responses: what needs somebody who keeps things between requests, or OpenAI's own servers.
_NOT_HERE = {
    "background": "the answer to a batch request is always in the results file; leave it out",
    "conversation": "no conversation is kept here; put the earlier turns into input",
    "previous_response_id": "no response is kept here; put the earlier turns into input",
    "prompt": "OpenAI's stored prompts are not to be had here; put the text into instructions and input",
    "store": "no response is kept here; leave it out, or set it to false",
}
_TOOLS = ("function", "custom", "namespace")  # which the caller runs; all others OpenAI does
_WATCHED = frozenset(
    (
        *_NEVER,
        *_NOT_HERE,
        *("chat_template", "chat_template_kwargs", "mm_processor_kwargs", "media_io_kwargs"),
        *("n", "logprobs", "top_logprobs", "prompt_logprobs", "echo"),
        *("response_format", "structured_outputs", "text", "tool_choice", "tools"),
    )
)
_SCHEMA_LEVELS = 100  # xgrammar needs 0.1 s for a schema that deep, 6 s for one of 600 levels, and has no time limit

# As strict as can be: what passes here means the same host to every parser (CVE-2026-24779 was two that differed).
_HTTP = re.compile(r"https?://([a-z0-9.-]{1,253})(?::\d{1,5})?(?:[/?#]|\Z)", re.ASCII | re.IGNORECASE)
_NESTED = (dict, list)


def refusal(settings: RequestSettings, url: str, body: dict[str, Any]) -> Fault | None:
    """Say why a request with this body may not run here; None where it may.

    Args:
        url: one of `ENDPOINTS`.
        body: as JSON gave it, of any content.
    """
    if not _WATCHED.isdisjoint(body):
        fault = _field(settings, url, body)
        if fault:
            return fault
    endpoint = ENDPOINTS[url]
    for name in endpoint.carriers:
        value = body.get(name)
        if name != "file_url" and (value.__class__ not in _NESTED or _plain(value)):
            continue
        if value.__class__ is list and not endpoint.one_prompt:
            each = _whole(body.get("n")) if name == "prompt" else 1
            if _many(value, max(1, settings.max_inputs // max(1, each))):
                what = f"{len(value):,} inputs" + (f" with n = {each}" if each > 1 else "")
                return _over(f"body.{name}", what, f"requests.max_inputs = {settings.max_inputs:,}")
        for link in _links({name: value}):
            fault = _link(settings, link, f"body.{name}")
            if fault:
                return fault
    return None


def fetches(url: str, body: dict[str, Any]) -> bool:
    """Say whether vLLM would have to fetch media for a request that may run here."""
    return any(
        isinstance(link, str) and link[:5].lower() != "data:"
        for name in ENDPOINTS[url].carriers
        if name == "file_url" or (body.get(name).__class__ in _NESTED and not _plain(body[name]))
        for link in _links({name: body.get(name)})
    )


def for_vllm(settings: RequestSettings) -> dict[str, Any]:
    """Return the same rules as vLLM's own arguments, so that what passes here passes there and nothing else does."""
    # vLLM takes an empty list to mean every host; .invalid is the name that no host has (RFC 2606).
    return {
        "allowed_media_domains": list(settings.allowed_media_domains) or ["none.invalid"],
        "trust_request_chat_template": settings.allow_chat_template,
        "trust_request_mm_kwargs": settings.allow_media_options,
        "max_logprobs": settings.max_logprobs,
    }


# -- fields


def _field(settings: RequestSettings, url: str, body: dict[str, Any]) -> Fault | None:
    get = body.get
    for name, why in _NEVER.items():
        if get(name):
            return Fault("not_allowed", f"{name} is never taken from a request: {why}", f"body.{name}")
    if url == "/v1/responses" and (fault := _not_here(body)):
        return fault
    if not settings.allow_chat_template:
        for name, template in (
            ("chat_template", get("chat_template")),
            ("chat_template_kwargs.chat_template", _inside(get("chat_template_kwargs"), "chat_template")),
        ):
            if template is not None:
                why = "a chat template is a program that vLLM would run"
                return _not_allowed(name, why, "requests.allow_chat_template")
    if not settings.allow_media_options:
        for name in ("mm_processor_kwargs", "media_io_kwargs"):
            if get(name):
                why = "it may make one image or video take all memory"
                return _not_allowed(name, why, "requests.allow_media_options")
    if get("prompt_logprobs") is not None and not settings.allow_prompt_logprobs:
        why = "the logits of a whole prompt take GPU memory that vLLM has not set aside, and may end the engine"
        return _not_allowed("prompt_logprobs", why, "requests.allow_prompt_logprobs")
    scored = url != "/v1/completions" or get("logprobs") is not None  # which has an echo without logits as well
    if get("echo") and scored and not settings.allow_prompt_logprobs:
        why = "vLLM computes the logits of the whole prompt for it, which may end the engine"
        return _not_allowed("echo", why, "requests.allow_prompt_logprobs")
    return _bounds(settings, body)


def _not_here(body: dict[str, Any]) -> Fault | None:
    for name, why in _NOT_HERE.items():
        if body.get(name):
            return Fault("not_supported", f"{name} is not served in a batch: {why}", f"body.{name}")
    tools = body.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        kind = _inside(tool, "type")
        if isinstance(kind, str) and kind not in _TOOLS:
            why = "it is run by OpenAI's servers; a model here may call functions of yours, of type function"
            return Fault("not_supported", f"tools of type {kind[:40]!r} are not served in a batch: {why}", "body.tools")
    return None


def _any_strict(tools: object) -> bool:
    listed = [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    return any(tool.get("strict") or _inside(tool.get("function"), "strict") for tool in listed)


def _bounds(settings: RequestSettings, body: dict[str, Any]) -> Fault | None:
    for name, setting, most in (
        ("n", "max_n", settings.max_n),
        ("logprobs", "max_logprobs", settings.max_logprobs),
        ("top_logprobs", "max_logprobs", settings.max_logprobs),
        ("prompt_logprobs", "max_logprobs", settings.max_logprobs),
    ):
        value = body.get(name)
        if value is not None and not _within(value, most):
            return _over(f"body.{name}", f"{name} = {str(value)[:20]}", f"requests.{setting} = {most:,}")
    grammars = ["response_format", "structured_outputs", "text"]
    choice = body.get("tool_choice")
    if choice not in (None, "none", "auto") or (choice != "none" and _any_strict(body.get("tools"))):
        grammars.append("tools")  # only then does vLLM make a grammar of them
    for name in grammars:
        value = body.get(name)
        if value.__class__ in _NESTED:
            if _deeper(value, _SCHEMA_LEVELS) or any(_deeper(part, _SCHEMA_LEVELS) for part in _as_text(value)):
                return Fault("over_limit", f"{name} is nested more than {_SCHEMA_LEVELS} levels deep", f"body.{name}")
            size = len(orjson.dumps(value))
            if size > settings.max_schema_bytes:
                most = settings.max_schema_bytes
                return _over(f"body.{name}", f"{name} has {size:,} bytes", f"requests.max_schema_bytes = {most:,}")
    return None


def _within(value: Any, most: int) -> bool:
    """Read a number as generously as pydantic does; what is none is vLLM's to refuse. -1 means all that there are."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return True
    return not isinstance(value, int | float) or 0 <= value <= most


def _whole(value: Any) -> int:
    """Read `n`, which `_within` has let pass, as pydantic does; 1 where it is no number."""
    try:
        return int(float(value))
    except (TypeError, ValueError, OverflowError):
        return 1


def _inside(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _deeper(value: Any, levels: int) -> bool:
    if not levels:
        return True
    children = value.values() if isinstance(value, dict) else value
    return any(child.__class__ in _NESTED and _deeper(child, levels - 1) for child in children)


def _as_text(value: Any) -> Iterator[Any]:
    """Yield the schemas that are given as text, parsed; what is no JSON is vLLM's to refuse."""
    for key in ("json", "structural_tag"):
        text = _inside(value, key)
        if isinstance(text, str):
            try:
                parsed = orjson.loads(text)
            except ValueError:
                continue
            if parsed.__class__ in _NESTED:
                yield parsed


def _many(inputs: list[Any], most: int) -> bool:
    return len(inputs) > most and not isinstance(inputs[0], int)  # a list of numbers is one prompt, in tokens


# -- media


def _plain(messages: Any) -> bool:
    """Say whether these are messages of text alone, as most are: vLLM looks for media nowhere but in `content`."""
    if messages.__class__ is not list:
        return False
    for message in messages:
        if message.__class__ is not dict or message.get("content").__class__ is not str:
            return False
    return True


def _links(value: Any) -> Iterator[Any]:
    """Yield what vLLM would take for a URL, however it is nested: {"image_url": …} and {"image_url": {"url": …}}."""
    left = [value]
    for value in left:
        if value.__class__ is list:
            left += [item for item in value if item.__class__ in _NESTED]
            continue
        for key, item in value.items():
            if key.endswith("_url"):
                yield item.get("url") if item.__class__ is dict else item
            elif item.__class__ in _NESTED:
                left.append(item)


def _link(settings: RequestSettings, link: Any, param: str) -> Fault | None:
    if not isinstance(link, str) or link[:5].lower() == "data:":
        return None
    instead = "send the content itself as a data: URL"
    if link[:5].lower() == "file:":
        return Fault("media_not_allowed", f"files of this host are never read for a request; {instead}", param)
    match = _HTTP.match(link)
    if match is None:
        return Fault("media_not_allowed", f"a media URL must begin with data:, http:// or https://; {instead}", param)
    host = match[1].lower()
    if host in settings.allowed_media_domains:
        return None
    setting = "the setting requests.allowed_media_domains"
    return Fault("media_not_allowed", f"media of {host} is not fetched: {setting} does not name it; {instead}", param)


# -- words


def _not_allowed(name: str, why: str, setting: str) -> Fault:
    sentence = f"{name} is not taken from a request, because {why}; the setting {setting} would allow it"
    return Fault("not_allowed", sentence, f"body.{name}")


def _over(param: str, what: str, setting: str) -> Fault:
    return Fault("over_limit", f"{what}: more than the setting {setting}", param)
