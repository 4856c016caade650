"""A spool as somebody finds it who has asked three models the same things: for tests of the web's pages.

Five hundred support tickets, to be sorted: most answers are JSON, some are prose, some were cut off, some are errors.
Everything is drawn from one seed, so that two runs show the same. No test lives here.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
from outboxes import chat

from inbox_daemon.layout import Published, Spool

MODELS = ("Qwen/Qwen3-4B-Instruct-2507", "google/gemma-3-4b-it", "meta-llama/Llama-3.2-3B-Instruct")
SLUGS = ("qwen3-4b", "gemma-3-4b", "llama-3.2-3b")

_LABELS = ("bug", "billing", "question", "praise")
_WHAT = {
    "bug": (
        "the export to CSV stops after row 4,096 and the file ends in the middle of a line",
        "since Tuesday's update the app closes when I rotate the phone on the invoice screen",
        "search finds nothing for names with an umlaut, though the customer list shows them",
    ),
    "billing": (
        "I was charged twice in March, once on the 3rd and again on the 17th, for the same seat",
        "our purchase order says 12 licences and the invoice says 15; who can put that right",
        "the VAT number on the invoice is the one of our old company, so bookkeeping refuses it",
    ),
    "question": (
        "is there a way to move a project to another workspace without losing its comments",
        "we would like to know whether the API allows more than 60 calls a minute on the team plan",
        "how do I give my deputy access for two weeks without sharing my own password",
    ),
    "praise": (
        "the new dashboard saves me half an hour every morning, please pass that on to the team",
        "your support answered on a Sunday and the data was back within the hour; thank you",
        "moving 9,000 tickets over took ten minutes and nothing was lost, I am impressed",
    ),
}
_WHY = (
    "The customer describes a concrete fault and says when it began",
    "An amount on an invoice is disputed, and the customer asks for a correction",
    "It is a question about how something is done; nothing is broken",
    "The message thanks the team, and asks for nothing",
    "The wording is polite but the matter is urgent for the customer",
    "No step to reproduce it is given, though the time at which it happened is",
)
_SYSTEM = (
    "You sort support tickets. Answer with one JSON object and nothing else: "
    '{"label": "bug" | "billing" | "question" | "praise", "score": 0 to 10 for its urgency, "reason": one sentence}.'
)


def _tickets(count: int) -> Iterator[tuple[str, str, str]]:
    """Yield custom_id, label and text of each ticket."""
    draw = random.Random(7)
    for number in range(count):
        label = draw.choices(_LABELS, (4, 3, 3, 1))[0]
        said = draw.choice(_WHAT[label])
        text = (
            f"Hello, {said}. This is ticket {number}; we are {draw.randint(3, 400)} people. Kind regards, M. Lindqvist"
        )
        yield f"ticket-{number:05d}", label, text


def requests(count: int = 500) -> list[dict[str, Any]]:
    """The lines of the file that all three models got."""
    return [
        {
            "custom_id": custom_id,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "messages": [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": text}],
                "max_tokens": 120,
            },
        }
        for custom_id, _, text in _tickets(count)
    ]


def _answer(draw: random.Random, label: str, careful: float) -> tuple[str, str]:
    """Return what one model says, and how its answer ended."""
    said = label if draw.random() < careful else draw.choice(_LABELS)
    reason = ". ".join(draw.sample(_WHY, draw.choice((1, 1, 2, 3)))) + "."
    urgent = {"bug": 7, "billing": 6, "question": 3, "praise": 0}[said] + draw.choice((-1, 0, 0, 0, 1, 2))
    if draw.random() < 0.03:
        return f"This ticket is about a {said} matter. {reason} I would call it {urgent} of 10.", "stop"
    text = orjson.dumps({"label": said, "score": max(0, urgent), "reason": reason}).decode()
    if draw.random() < 0.02:
        return text[: len(text) * 2 // 3], "length"
    return (f"```json\n{text}\n```" if draw.random() < 0.04 else text), "stop"


def answered(
    spool: Spool,
    name: str,
    lines: list[dict[str, Any]],
    say: Callable[[int], tuple[str, str] | None],
    *,
    model: str = MODELS[0],
    number: int = 0,
    seconds: int = 51,
    ago: int = 3600,
    **told: Any,
) -> Published:
    """Write the folder of a batch that has ended: `say` gives the text and finish_reason , None is an error."""
    folder = spool.batch(name)
    folder.dir.mkdir(parents=True)
    content = b"".join(orjson.dumps(line) + b"\n" for line in lines)
    results, errors, written = [], [], 0
    id = f"batch_{number:022x}"
    for place, line in enumerate(lines):
        said, head = say(place), {"id": f"{id.replace('batch', 'batch_req')}_{place}", "custom_id": line["custom_id"]}
        if said is None:
            error = {"message": "This model's maximum context length is 2048 tokens", "type": "invalid_request_error"}
            body = {"error": error | {"param": "input_tokens", "code": "invalid_request"}}
            response = {"status_code": 400, "request_id": head["id"], "body": body}
            errors.append(head | {"line": place + 1, "response": response, "error": None})
            continue
        tokens = max(1, len(said[0]) // 4)
        written += tokens
        response = {"status_code": 200, "request_id": head["id"], "body": chat(said[0], tokens, said[1])}
        results.append(head | {"response": response, "error": None})
    made = int(time.time()) - ago
    counts = {"total": len(lines), "completed": len(results), "failed": len(errors)}
    usage = {
        "input_tokens": 180 * len(lines),
        "input_tokens_details": {"cached_tokens": 120 * len(lines)},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 180 * len(lines) + written,
    }
    status = {
        "schema": 3,
        "id": id,
        "object": "batch",
        "name": name,
        "endpoint": "/v1/chat/completions",
        "model": model,
        "input_file_id": f"{name}.jsonl",
        "input_sha256": sha256(content).hexdigest(),
        "input_bytes": len(content),
        "status": "completed",
        "created_at": made,
        "in_progress_at": made + 2,
        "finalizing_at": made + seconds - 1,
        "completed_at": made + seconds,
        "request_counts": counts,
        "usage": usage,
        "errors": None,
    }
    _write(folder.dir / "input.jsonl", lines)
    _write(folder.results, results)
    _write(folder.errors, errors)
    folder.status.write_bytes(orjson.dumps(status | told))
    receipt = {
        "schema": 3,
        "id": id,
        "name": name,
        "status": "completed",
        "input": {"file": f"{name}.jsonl", "requests": len(lines), "sha256": status["input_sha256"]},
        "answers": len(results),
        "errors": len(errors),
        "files": {},
        "problem": None,
        "usage": usage,
        "times": {
            "created_at": made,
            "in_progress_at": made + 2,
            "finished_at": made + seconds,
            "busy_seconds": seconds,
        },
        "energy_joules": 18_000,
        "engines": [{"model": model, "gpus": ["NVIDIA H100 80GB HBM3"]}],
    }
    folder.receipt.write_bytes(orjson.dumps(receipt))
    return folder


def _write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))


def tickets(spool: Spool, count: int = 500) -> list[str]:
    """Write the three batches into a spool; return their names."""
    labels, lines, names = [label for _, label, _ in _tickets(count)], requests(count), []
    for number, (slug, model, careful) in enumerate(zip(SLUGS, MODELS, (0.93, 0.86, 0.78), strict=True), 1):
        draw = random.Random(number)
        said = [None if draw.random() < 0.006 * number else _answer(draw, label, careful) for label in labels]
        name = f"tickets@{slug}"
        answered(spool, name, lines, said.__getitem__, model=model, number=number, ago=4000 - 300 * number)
        names.append(name)
    return names


def daemon(spool: Spool, alive: bool = True, **told: Any) -> None:
    """Say what a daemon says of itself."""
    engine = {"engine": 1, "model": MODELS[0], "host": "gpu1", "state": "ready", "in_flight": 412}
    at = time.time() if alive else time.time() - 3600
    gpus = {"state": "ok", "devices": [{"index": 0, "name": "NVIDIA H100 80GB HBM3", "utilization": 0.96}]}
    said: Mapping[str, Any] = {
        "hostname": "gpu1",
        "pid": 4211,
        "schema": 3,
        "at": at,
        "engines": [engine],
        "gpus": gpus,
    }
    spool.daemons.mkdir(parents=True, exist_ok=True)
    (spool.daemons / "gpu1-4211.json").write_bytes(orjson.dumps({**said, **told}))


def running(spool: Spool, name: str, done: int, total: int, number: int = 90, **told: Any) -> None:
    """Write the status of a batch that is at work."""
    folder = spool.batch(name)
    folder.dir.mkdir(parents=True)
    made = int(time.time()) - 40
    status = {
        "schema": 3,
        "id": f"batch_{number:022x}",
        "name": name,
        "status": "in_progress",
        "endpoint": "/v1/chat/completions",
        "model": MODELS[0],
        "input_file_id": f"{name}.jsonl",
        "created_at": made,
        "in_progress_at": made + 2,
        "request_counts": {"total": total, "completed": done - 2, "failed": 2},
        "in_flight": 256,
        "requests_per_second": 97.1,
        "output_tokens_per_second": 14210.0,
        "eta_seconds": round((total - done) / 97.1),
        "usage": None,
        "updated_at": time.time(),
    }
    folder.status.write_bytes(orjson.dumps(status | told))
