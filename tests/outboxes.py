"""Finished batches' folders made by hand, for tests of what reads them: answers and errors of a few words each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from inbox_daemon.layout import Published

Said = str | None  # an answer's text, or None for a request that ended as an error


def chat(text: str, tokens: int = 7, finish: str = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "tool_calls": []}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"choices": [choice], "usage": {"prompt_tokens": 11, "completion_tokens": tokens}}


def outbox(
    folder: Path,
    said: Mapping[str, Said] | Sequence[tuple[str, Said]],
    *,
    seconds: float = 10.0,
    content: str | None = "the same",
    model: str = "tiny",
    gpus: Sequence[str] = (),
) -> Published:
    """Write a finished batch whose requests are called and answered as `said`."""
    folder.mkdir(parents=True)
    published = Published(folder)
    lines: dict[bool, list[bytes]] = {True: [], False: []}
    for place, (custom_id, text) in enumerate(said.items() if isinstance(said, Mapping) else said):
        response = None if text is None else {"status_code": 200, "request_id": "r", "body": chat(text)}
        error = {"code": "engine_crash", "message": "it died"} if text is None else None
        number = {"line": place + 1} if text is None else {}
        line = {"id": f"batch_req_{place}", "custom_id": custom_id, **number, "response": response, "error": error}
        lines[text is not None].append(orjson.dumps(line) + b"\n")
    published.results.write_bytes(b"".join(lines[True]))
    published.errors.write_bytes(b"".join(lines[False]))
    receipt = {
        "schema": 2,
        "input": {"requests": len(said), "sha256": "", "content_sha256": content},
        "answers": len(lines[True]),
        "errors": len(lines[False]),
        "files": {},
        "usage": {"output_tokens": 7 * len(lines[True])},
        "times": {"in_progress_at": 1_000, "finished_at": 1_000 + seconds},
        "engines": [{"model": model, "gpus": list(gpus)}],
    }
    published.receipt.write_bytes(orjson.dumps(receipt))
    return published


def batch_id(name: str) -> str:
    """The id of a batch made by hand."""
    return f"batch_{hashlib.sha256(name.encode()).hexdigest()[:22]}"


def told(published: Published, status: str = "completed", **more: Any) -> Published:
    """Write the status.json of a batch."""
    name = published.dir.name
    counts = {"total": 0, "completed": 0, "failed": 0}
    said = {
        "id": batch_id(name),
        "name": name,
        "status": status,
        "created_at": 1_000,
        "request_counts": counts,
    }
    published.status.write_bytes(orjson.dumps(said | more))
    return published


def asked(published: Published, prompts: Mapping[str, str]) -> None:
    """Write the input that a batch has kept: a chat request for each custom_id."""
    lines = []
    for custom_id, text in prompts.items():
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
        line = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": {"messages": messages}}
        lines.append(orjson.dumps(line) + b"\n")
    (published.dir / "input.jsonl").write_bytes(b"".join(lines))
