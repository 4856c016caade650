"""Files that nobody would write, for `check` and ingest: valid lines, changed in their structure and in their bytes.

`python tests/fuzzing.py SECONDS [SEED]` does that for so long and says what it found. No test lives here.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from running import IN_MEMORY, error_of, request

from inbox_daemon.cli.check import faults_of
from inbox_daemon.config import Config, EngineSettings, InboxSettings, ModelSettings, RequestSettings, ResultSettings
from inbox_daemon.engine.null import NullEngine
from inbox_daemon.errors import Rejected
from inbox_daemon.layout import Published, Work
from inbox_daemon.records import Outcome, Request, ticket
from inbox_daemon.request.output import request_id
from inbox_daemon.request.reading import rules_of
from inbox_daemon.spool import complete, files, ingest, proof
from inbox_daemon.spool.outcomes import Outcomes
from inbox_daemon.spool.publish import decide, merge, publish
from inbox_daemon.text import dumps

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SUFFIXES = (".jsonl", ".jsonl", ".jsonl.gz", ".jsonl.zst")
MUCH = 2_000_000  # bytes of a file before it is compressed
LONGEST_MESSAGE = 1000  # characters
MOST_MEMORY = 300  # MB, whatever a file claims to be

# -- valid lines, of every kind that the rules look at

IMAGE = {"type": "image_url", "image_url": {"url": "https://media.example.org/a.png"}}
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": "é漢"}, IMAGE]}]}),
    ("/v1/chat/completions", {"messages": [], "n": 2, "top_logprobs": 3, "logprobs": True, "stream": False}),
    ("/v1/chat/completions", {"messages": [], "response_format": {"type": "json_schema", "json_schema": {"a": [1]}}}),
    ("/v1/chat/completions", {"messages": [], "structured_outputs": {"json": '{"type": "object"}'}, "tools": []}),
    ("/v1/chat/completions", {"messages": [], "tools": [{"function": {}}], "tool_choice": "required"}),
    ("/v1/embeddings", {"input": ["a", "b"], "model": "m"}),
    ("/v1/embeddings", {"input": [1, 2, 3]}),
    ("/v1/score", {"text_1": "a", "text_2": ["b", "c"]}),
    ("/rerank", {"query": "q", "documents": ["a", {"image_url": "file:///etc/passwd"}]}),
    ("/v1/audio/transcriptions", {"file_url": "data:audio/wav;base64,AAAA"}),
]
FIELDS = (
    *("custom_id", "method", "url", "body", "model", "messages", "input", "content", "stream", "n", "top_logprobs"),
    *("prompt_logprobs", "response_format", "structured_outputs", "tool_choice", "tools", "chat_template", "json"),
    *("chat_template_kwargs", "mm_processor_kwargs", "media_io_kwargs", "kv_transfer_params", "request_id", "usage"),
    *("image_url", "file_url", "documents", "query", "queries", "items", "data_1", "text_1", "structural_tag"),
)


def nasty(dice: random.Random) -> Any:
    """A value that some reader of JSON trips over."""
    deep = f"@deep{dice.choice([1, 3, 90, 99, 130, 900, 1100])}@{dice.choice(['list', *FIELDS])}@"
    numbers = [
        0,
        -1,
        1,
        128,
        129,
        2**31,
        2**53,
        2**63,
        2**64,
        -(2**63) - 1,
        10**30,
        0.5,
        1e308,
        float("inf"),
        float("nan"),
    ]
    texts = [
        "",
        " ",
        "POST",
        "\ud800",
        "\udfff\ud800",
        "\x00",
        "a\nb",
        "x" * dice.choice([511, 512, 513, 5000]),
        "m",
        "-1",
        "1e9",
    ]
    links = [
        "file:///etc/passwd",
        "HTTP://media.example.org@evil/",
        "http://[::1",
        "data:",
        "//x",
        "https://media.example.org:99999/",
    ]
    plain = [None, True, False, [], {}, [[]], [None], {"": None}, {"url": None}, {"url": {"url": "file:///x"}}]
    return dice.choice([deep, dice.choice(numbers), dice.choice(texts), dice.choice(links), dice.choice(plain)])


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) below a value."""
    found = []
    left = [value]
    for one in left:
        keys: list[Any] = list(one) if isinstance(one, dict) else list(range(len(one)))
        found += [(one, key) for key in keys]
        left += [one[key] for key in keys if isinstance(one[key], dict | list)]
    return found


def changed(dice: random.Random, value: dict[str, Any]) -> Any:
    """Change a request in its structure, in some places."""
    for _ in range(dice.choice([0, 1, 1, 2, 4])):
        container, key = dice.choice(places_in(value) or [({}, "")])
        what = dice.random()
        if what < 0.5:
            container[key] = nasty(dice)
        elif what < 0.65 and isinstance(container, dict):
            container.pop(key, None)
        elif isinstance(container, dict):
            container[dice.choice(FIELDS)] = nasty(dice)
        else:
            container.append(nasty(dice))
    return value if dice.random() < 0.97 else nasty(dice)


def line(dice: random.Random, number: int) -> bytes:
    url, body = dice.choice(BODIES)
    made = request(dice.choice([f"r{number}", f"r{number}", "same"])) | {
        "url": url,
        "body": json.loads(json.dumps(body)),
    }
    spaces = dice.choice([None, (",", ":"), (" , ", " :\t")])
    text = json.dumps(changed(dice, made), ensure_ascii=dice.random() < 0.7, separators=spaces)
    return _DEEP.sub(_nested, text).encode("utf-8", "surrogatepass")


_DEEP = re.compile(r'"@deep(\d+)@(\w+)@"')  # json cannot write what is nested so deeply


def _nested(found: re.Match[str]) -> str:
    levels, name = int(found[1]), found[2]
    opening, closing = ("[", "]") if name == "list" else (f'{{"{name}":', "}")
    return opening * levels + "{}" + closing * levels


PIECES = [
    b"\x00",
    b"\r",
    b"\n",
    b"\n\n",
    b"{",
    b"}",
    b"[",
    b'"',
    b"\\",
    b"\\u",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
]
PIECES += [
    b",",
    b":",
    b"\xc0\x80",
    b"\x1f\x8b\x08",
    b"\x28\xb5\x2f\xfd",
    b"\x50\x2a\x4d\x18",
    b"\xe2\x80\xa8",
    b"\x85",
    b"1e999",
]


def bent(dice: random.Random, data: bytes) -> bytes:
    """Change bytes here and there."""
    for _ in range(dice.choice([0, 0, 1, 1, 2, 8])):
        at, end = sorted(dice.randrange(len(data) + 1) for _ in range(2))
        end = min(end, at + dice.choice([1, 4, 60, 5000]))
        match dice.randrange(6):
            case 0 if data:
                at = min(at, len(data) - 1)
                data = data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :]
            case 1:
                data = data[:at] + dice.choice(PIECES) + data[at:]
            case 2:
                data = data[:at] + data[end:]
            case 3:
                data = data[:end] + data[at:end] * dice.choice([1, 2, 50]) + data[end:]
            case 4:
                data = data[:at] + dice.randbytes(dice.choice([1, 4, 100])) + data[at:]
            case _ if dice.random() < 0.3:
                data = data[:at]
    return data


def packed(dice: random.Random, suffix: str, data: bytes) -> bytes:
    """Compress as the suffix says, in one stream or several."""
    if suffix == ".jsonl":
        return data
    cuts = sorted(dice.randrange(len(data) + 1) for _ in range(dice.choice([0, 0, 1, 3])))
    parts = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    pack = gzip.compress if suffix.endswith("gz") else zstd.compress
    streams = b"".join(pack(part) for part in parts)
    return bent(dice, streams) if dice.random() < 0.4 else streams


def dropped(dice: random.Random) -> tuple[str, bytes]:
    """Make up a file: its suffix and its bytes."""
    lines = [line(dice, n) for n in range(dice.choice([0, 1, 2, 5, 30]))]
    if dice.random() < 0.005:  # what compresses well, or is many
        one = dice.choice([b"", b"x", b"{}", b"[" * 5000, *lines])
        lines = [one] * min(dice.choice([3000, 60_000]), MUCH // (len(one) + 1))
    data = dice.choice([b"\n", b"\n", b"\r\n", b"\n\n"]).join(lines) + dice.choice([b"\n", b""])
    suffix = dice.choice(SUFFIXES)
    return suffix, packed(dice, suffix, bent(dice, dice.choice([b"", b"", b"", b"\xef\xbb\xbf"]) + data))


def rules(dice: random.Random) -> Config:
    """Settings: now and then so tight that a file breaks them."""
    either = lambda: dice.random() < 0.3  # noqa: E731
    return Config(
        inbox=InboxSettings(
            strict=either(),
            max_line_bytes=dice.choice([1024, 1 << 25]),
            max_lines=dice.choice([20, 50_000]),
            max_file_bytes=dice.choice([4096, 1 << 20, 1 << 36]),
        ),
        models=ModelSettings(aliases={"m": "served/model"}, translate_ollama=either()),
        requests=RequestSettings(
            allowed_media_domains=("media.example.org",) if either() else (),
            allow_chat_template=either(),
            allow_media_options=either(),
            allow_prompt_logprobs=either(),
            max_schema_bytes=dice.choice([0, 64 * 1024]),
        ),
        engine=EngineSettings(kind="null", model=dice.choice(["", "served/model"])),
        results=ResultSettings(keep_free=0),
    )


# -- one file


@dataclass(slots=True)
class Said:
    """What became of one file: `rejected` or the faults, each (line number, code, message, param, custom_id)."""

    requests: int = 0
    rejected: str | None = None
    faults: list[tuple[Any, ...]] = field(default_factory=list)


def by_check(path: Path, config: Config) -> Said:
    found = faults_of(path, config, limit=1 << 30)
    if found.fatal:
        return Said(rejected=found.fatal)
    assert found.count == len(found.found)
    return Said(found.requests, None, [(number, *dataclasses.astuple(fault)) for number, fault in found.found])


def by_ingest(path: Path, config: Config, folder: Path) -> Said:
    """Take it in, answer what is no fault, publish, and hold the receipt against the files."""
    work = Work(folder / "batch_1")
    for made in (work.dropped, work.parts, folder / "outbox" / "parts"):
        made.mkdir(parents=True)
    shutil.copyfile(path, work.dropped / path.name)
    with (
        files.Writer(work.open_part, fresh=True) as part,
        closing(ingest.ingest(work, rules_of(config), part)) as steps,
    ):
        try:
            while True:
                next(steps)
        except StopIteration as end:
            accepted = end.value
        except Rejected as rejected:
            return Said(rejected=str(rejected))
    faults = []
    for said in map(orjson.loads, work.open_part.read_bytes().splitlines()):
        error = error_of(said)
        assert error.status == 400
        faults.append((*error[:4], said["custom_id"]))
    assert accepted.faults == len(faults)
    if accepted.requests <= 50:
        answer_and_publish(work, Published(folder / "outbox"), config)
    return Said(accepted.requests, None, faults)


def answer_and_publish(work: Work, folder: Published, config: Config) -> None:
    source = ingest.Input(work)
    outcomes = Outcomes(work, len(source.index))
    for _ in outcomes.recover(1, lambda outcome: None, folder):
        pass
    engine = NullEngine(config.engine)
    left = [place for place in range(len(source.index)) if not outcomes.has(place)]
    ids = [request_id(work.id, place) for place in left]
    engine.send([Request(ticket(1, p), id, source.number(p), source.line(p)) for p, id in zip(left, ids, strict=True)])
    answers: list[Outcome] = engine.receive()
    outcomes.append(answers)
    outcomes.sync()
    errors = len(source.index) - len(answers)
    numbers = {"input": {"requests": len(source.index)}, "answers": len(answers), "errors": errors}
    steps = merge(work, outcomes, source, "")
    try:
        while True:
            next(steps)
    except StopIteration as end:
        decide(work, {"name": folder.dir.name}, numbers | {"name": folder.dir.name, "files": named(end.value)})
    publish(work, folder)
    assert proof.verify(folder).problems == []
    source.close()
    outcomes.close()


def named(merged: dict[str, Any]) -> dict[str, Any]:
    return {name: dataclasses.asdict(one) for name, one in merged.items() if one.lines or name != "retry.jsonl"}


def problem_of(suffix: str, content: bytes, config: Config) -> tuple[str, Said]:
    """Return what is wrong with how a file was taken, "" where nothing is, and what was said of it."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=IN_MEMORY))
    path = folder / f"x{suffix}"
    path.write_bytes(content)
    said = Said()
    try:
        try:
            for _ in complete.read_to_see(path, config.inbox.max_file_bytes):
                pass
        except Rejected:
            pass
        checked, said = by_check(path, config), by_ingest(path, config, folder)
    except Exception:
        return traceback.format_exc(), said
    finally:
        shutil.rmtree(folder)
    if _comparable(checked) != _comparable(said):
        return f"check says {checked}, ingest {said}", said
    if not said.rejected and suffix == ".jsonl" and said.requests != (asked := lines_of(content)):
        return f"{asked} lines, {said.requests} requests", said
    if too_long := [fault for fault in said.faults if len(fault[2]) > LONGEST_MESSAGE]:
        return f"a message as long as {len(too_long[0][2]):,}: {too_long[0][2][:200]}", said
    return "", said


def lines_of(content: bytes) -> int:
    return sum(bool(line.strip()) for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n"))


def _comparable(said: Said) -> Any:
    """Half characters are replaced where they are written."""
    return dumps([said.requests, said.rejected, said.faults])


# -- many files


@dataclass(slots=True)
class Report:
    executions: int = 0
    memory: float = 0.0  # MB, the most it had
    outcomes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def _most_memory() -> float:
    """MB; of this program alone, where getrusage's maximum is also that of the one which started it."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024 / 1e6


def fuzz(seconds: float, seed: int, keep: Path | None = None, least: int = 0) -> Report:
    """Do it for so long; to be called in a process of its own, where no sync need wait for the disk.

    Args:
        least: files with which it is done, however long they take.
        keep: where files that show a problem are kept.
    """
    os.fsync = os.fdatasync = lambda fd: None  # type: ignore[assignment]
    report = Report()
    until = time.monotonic() + seconds
    while (time.monotonic() < until or report.executions < least) and len(report.problems) < 10:
        dice = random.Random(f"{seed}.{report.executions}")
        suffix, content = dropped(dice)
        problem, said = problem_of(suffix, content, rules(dice))
        report.executions += 1
        if said.rejected:
            report.outcomes[f"rejected: {said.rejected[len('x') + len(suffix) + 2 :][:40]}"] += 1
        report.outcomes.update(fault[1] for fault in said.faults[:50])
        report.outcomes["requests that can run"] += said.requests - len(said.faults)
        if problem:
            report.problems.append(f"{seed}.{report.executions - 1}, {suffix}, {len(content)} bytes: {problem}")
            if keep:
                (keep / f"{seed}.{report.executions - 1}{suffix}").write_bytes(content)
    report.memory = _most_memory()
    return report


if __name__ == "__main__":
    made = fuzz(
        float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns(), Path(tempfile.gettempdir())
    )
    print(f"{made.executions:,} files, {made.memory:.0f} MB at most, {len(made.problems)} problems")
    print("\n".join(f"{count:10,}  {what}" for what, count in made.outcomes.most_common()))
    print("\n".join(made.problems))
    raise SystemExit(bool(made.problems))
