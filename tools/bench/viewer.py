#!/usr/bin/env python3
"""Times the viewer on batches of its own making: reading answers, first page, filters, orders, search, agreement.

Prints a line for each. Needs neither vLLM nor a GPU.

    tools/bench/viewer.py --batches 6 --requests 200000 --work /tmp/viewer       twice: the second time warm
"""

from __future__ import annotations

import argparse
import itertools
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import orjson
from starlette.datastructures import QueryParams

from inbox_daemon.config import Config
from inbox_daemon.layout import Spool
from inbox_daemon.web import rows
from inbox_daemon.web.rows import Comparison, Filter, Order
from inbox_daemon.web.site import Site
from inbox_daemon.web.wrong import Wrong

LABELS, LIKELY = ("yes", "no", "maybe"), (5, 4, 1)
QUERIES = (
    ("first page", "", Order.FILE, 1),
    ("page 3,000", "", Order.FILE, 3_000),
    ("differ", "show=differ", Order.FILE, 1),
    ("differ by a text field", "show=differ&by=reason", Order.FILE, 1),
    ("only A dissents", "only=A", Order.FILE, 1),
    ("A and B differ", "unlike=AB", Order.FILE, 1),
    ("a field's value", "is=A:label:yes&is=B:label:no", Order.FILE, 1),
    ("numbers 5 apart", "by=score&delta=5", Order.FILE, 1),
    ("errors", "show=errors", Order.FILE, 1),
    ("cut off", "show=cut", Order.FILE, 1),
    ("no JSON", "show=nojson", Order.FILE, 1),
    ("length", "characters=700-", Order.FILE, 1),
    ("tokens", "tokens=-20", Order.FILE, 1),
    ("a custom_id", "id=candidate-000777", Order.FILE, 1),
    ("sorted by disagreement", "", Order.APART, 1),
    ("sorted by distance of numbers", "by=score", Order.APART, 1),
    ("sorted by distance of texts", "by=", Order.APART, 1),
    ("sorted by length", "", Order.LONGEST, 1),
    ("sorted by tokens", "", Order.TOKENS, 1),
    ("a text that is nowhere, first search", "q=zzzqqq", Order.FILE, 1),
    ("a text that is nowhere", "q=zzzqqz", Order.FILE, 1),
    ("a text that is everywhere", "q=reason", Order.FILE, 1),
    ("a letter", "q=e", Order.FILE, 1),
    ("a pattern that is rare", "q=/zzz[qx]q/", Order.FILE, 1),
    ("a pattern that is frequent", 'q=/"score":(8|9),/', Order.FILE, 1),
    ("a pattern with an end", 'q=/s"}$/', Order.FILE, 1),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--work", type=Path, help="a folder for spool and cache; what is there is used again")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="viewer-") as temporary:
        work = given.work or Path(temporary)
        names = [f"candidates@{letter}" for letter in "abcdef"[: given.batches]]
        made(work / "spool" / "outbox", given.requests, names)
        run(Site(Spool(work / "spool"), Config(), work / "cache"), names)


def run(site: Site, names: list[str]) -> None:
    began = time.perf_counter()
    while not isinstance(found := rows.opened(site, names), Comparison):
        time.sleep(0.05)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    say("opened", time.perf_counter() - began, cpu, f"{found.total:,} rows of {len(names)} batches")
    size = sum(path.stat().st_size for path in site.cache.rglob("*") if path.is_file())
    print(f"  index {size / 1e6:,.0f} MB; the child that reads took {used.ru_maxrss // 1024} MB at its peak")
    timed("opened again", lambda: rows.opened(site, names))
    for by in ("label", "score", ""):
        timed(f"header by {by or 'the whole answer'}", lambda by=by: f"alpha {found.header(by).alpha}")
    for what, query, order, page in QUERIES:
        filter = Filter.of(QueryParams(query))
        timed(what, lambda filter=filter, order=order, page=page: f"{found.rows(filter, order, page).found:,} rows")
    timed("page 2 of the last", lambda: f"{found.rows(filter, order, 2).found:,} rows")
    print(f"  this process took {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB at its peak")


def timed(what: str, do: Callable[[], object]) -> None:
    began, worked = time.perf_counter(), time.process_time()
    try:
        said = do()
    except Wrong as wrong:
        said = wrong.message
    say(what, time.perf_counter() - began, time.process_time() - worked, said if isinstance(said, str) else "")


def say(what: str, seconds: float, cpu: float, more: str) -> None:
    print(f"{what:40s} {seconds:8.3f} s  {cpu:7.3f} s of CPU  {more}", flush=True)


# -- batches


def made(outbox: Path, requests: int, names: list[str]) -> None:
    """Write batches whose answers have a label, a score and a reason; some are cut off, some are errors."""
    chance = random.Random(1)
    words = ["".join(chance.choices("aeiouklmnprst", k=chance.randint(2, 9))) for _ in range(20_000)]
    frequent = list(itertools.accumulate(1 / (n + 1) for n in range(len(words))))
    pool = chance.choices(words, cum_weights=frequent, k=1_000_000)

    def text(n: int) -> str:
        at = chance.randrange(len(pool) - n)
        return " ".join(pool[at : at + n])

    labels = chance.choices(LABELS, LIKELY, k=requests)
    scores = [chance.randint(0, 10) for _ in range(requests)]
    asked = outbox / names[0] / "input.jsonl"
    for name in names:
        folder = outbox / name
        if (folder / "status.json").exists():
            continue
        print(f"making {folder}", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        if folder == asked.parent:
            system = text(120)
            with open(asked, "wb", 1 << 20) as file:
                file.writelines(_request(n, system, text(220)) for n in range(requests))
        with open(folder / "results.jsonl", "wb", 1 << 20) as results, open(folder / "errors.jsonl", "wb") as errors:
            for n in range(requests):
                odd = chance.random()
                label = labels[n] if chance.random() < 0.85 else chance.choice(LABELS)
                score = max(0, min(10, scores[n] + (0 if chance.random() < 0.7 else chance.choice((-2, -1, 1, 2)))))
                said = orjson.dumps({"label": label, "score": score, "reason": text(chance.randint(40, 130))}).decode()
                if odd < 0.002:
                    errors.write(_error(n))
                elif odd < 0.012:
                    results.write(_answer(n, name, said[: len(said) // 2], "length"))
                else:
                    results.write(_answer(n, name, said, "stop"))
        status = {"id": f"batch_{name[-1]}", "name": name, "status": "completed", "created_at": 1}
        counts = {"request_counts": {"total": requests, "completed": requests, "failed": 0}}
        (folder / "status.json").write_bytes(orjson.dumps(status | counts))


def _request(n: int, system: str, text: str) -> bytes:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": f"Candidate {n}: {text}"}]
    body = {"model": "m", "messages": messages, "temperature": 0, "max_tokens": 152}
    line = {"custom_id": f"candidate-{n:06d}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return orjson.dumps(line) + b"\n"


def _answer(n: int, model: str, said: str, finish: str) -> bytes:
    id, tokens = f"batch_req_01a21f_{n}", len(said) // 4
    nothing = dict.fromkeys(("refusal", "annotations", "audio", "function_call", "reasoning_content"))
    message = {"role": "assistant", "content": said, **nothing, "tool_calls": []}
    body = {
        "id": id,
        "object": "chat.completion",
        "created": 1795816633,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish, "stop_reason": None}],
        "service_tier": None,
        "system_fingerprint": None,
        "usage": {
            "prompt_tokens": 571,
            "total_tokens": 571 + tokens,
            "completion_tokens": tokens,
            "prompt_tokens_details": {"cached_tokens": 512},
        },
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "kv_transfer_params": None,
    }
    response = {"status_code": 200, "request_id": id, "body": body}
    line = {"id": id, "custom_id": f"candidate-{n:06d}", "response": response, "error": None}
    return orjson.dumps(line) + b"\n"


def _error(n: int) -> bytes:
    said = {"error": {"message": "too long", "type": "invalid_request_error", "param": None, "code": "too_long"}}
    id = f"batch_req_01a21f_{n}"
    response = {"status_code": 400, "request_id": id, "body": said}
    line = {"id": id, "custom_id": f"candidate-{n:06d}", "line": n + 1, "response": response, "error": None}
    return orjson.dumps(line) + b"\n"


if __name__ == "__main__":
    main()
