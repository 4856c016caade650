"""What is said of a batch: `status.json` in OpenAI's batch object's fields and ours, and the receipt.

Pure: facts in, dictionaries out. Every number users see is made here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from inbox_daemon import __version__
from inbox_daemon.batch.pace import Speed
from inbox_daemon.batch.queue import Lane
from inbox_daemon.batch.state import State
from inbox_daemon.records import BatchStatus, Outcome
from inbox_daemon.spool.history import History
from inbox_daemon.spool.publish import Merged
from inbox_daemon.spool.shapes import SCHEMA
from inbox_daemon.text import dumps, shown


@dataclass(slots=True)
class Tally:
    """The durable outcomes of one batch, counted."""

    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def add(self, outcome: Outcome) -> None:
        if outcome.is_error:
            self.failed += 1
        else:
            self.completed += 1
        self.input_tokens += outcome.input_tokens
        self.cached_tokens += outcome.cached_tokens
        self.output_tokens += outcome.output_tokens
        self.reasoning_tokens += outcome.reasoning_tokens

    @property
    def done(self) -> int:
        return self.completed + self.failed

    def usage(self) -> dict[str, Any]:
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": self.input_tokens + self.output_tokens,
        }


@dataclass(frozen=True, slots=True)
class Present:
    """What the daemon's engines are doing now (`watch.view`), and how each lane's model stands where there are several.

    Attributes:
        models: by the lane's name; {} where one model is configured.
    """

    engines: Sequence[Mapping[str, Any]] = ()
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a batch's status is made of.

    Attributes:
        mark: of the file as it was dropped, by which who dropped it finds its batch.
        created: Unix seconds of the claim.
        daemon: which one has it in work.
        age: seconds since then, whoever has set the clock meanwhile.
        resent: how often the same file was sent again under its name.
        present: what engines and models are doing.
        lanes: what there is for each model.
        busy: seconds in which engines had something of it; `energy`: joules that their GPUs have spent on it.
        eta: seconds that it is expected to take still.
    """

    id: str
    name: str
    source: str
    mark: str
    created: int
    state: State
    history: History
    daemon: str | None = None
    age: float = 0.0
    resent: int = 0
    present: Present = Present()
    lanes: Sequence[Lane] = ()
    tally: Tally = field(default_factory=Tally)
    in_flight: int = 0
    priority: int = 0
    busy: float = 0.0
    energy: float | None = None
    speed: Speed = Speed()  # noqa: RUF009  frozen
    eta: float | None = None


def batch_object(facts: Facts, now: float) -> dict[str, Any]:
    """Return `status.json`. `now` is in Unix seconds."""
    state, history, tally = facts.state, facts.history, facts.tally
    accepted, status = state.accepted, state.status
    total = accepted.requests if accepted else 0
    problems = [state.rejected] if state.rejected else accepted.shown if accepted else []
    final = status.final
    running = status is BatchStatus.IN_PROGRESS and not state.paused and not state.parked
    speed = facts.speed if running else Speed()
    return {
        "schema": SCHEMA,
        "id": facts.id,
        "object": "batch",
        "name": facts.name,
        "endpoint": accepted.endpoint if accepted else "",
        "model": state.model or None,
        "input_file_id": facts.source,
        "input_mark": facts.mark,
        "input_bytes": accepted.bytes if accepted else None,
        "input_sha256": accepted.sha256 if accepted else None,
        "resent": facts.resent,
        "completion_window": "none",
        "status": status.value,
        "output_file_id": "results.jsonl" if final and accepted else None,
        "error_file_id": "errors.jsonl" if final and accepted and tally.failed else None,
        "created_at": facts.created,
        "in_progress_at": history.stamp("started"),
        "finalizing_at": history.stamp("finalizing"),
        "completed_at": int(now) if status is BatchStatus.COMPLETED else None,
        "failed_at": int(now) if status is BatchStatus.FAILED else None,
        "cancelling_at": history.stamp("cancelling"),
        "cancelled_at": int(now) if status is BatchStatus.CANCELLED else None,
        "request_counts": {"total": total, "completed": tally.completed, "failed": tally.failed},
        "errors": {"object": "list", "data": problems} if problems else None,
        "usage": tally.usage(),
        "warnings": (accepted.warnings if accepted else None) or None,
        "updated_at": round(now, 1),
        "daemon": None if final else facts.daemon,
        "in_flight": facts.in_flight,
        "priority": facts.priority,
        "paused": state.paused,
        "parked": None if final else state.parked,
        "waiting_for_disk_bytes": (None if final else state.lacking) or None,
        "waiting_for_model": None if final else state.waits_for,
        "waiting_for_memory": state.waits_for_memory and not final,
        "cannot_load": None if final else state.hopeless,
        "requests_per_second": round(speed.requests, 2),
        "output_tokens_per_second": round(speed.output_tokens, 1),
        "eta_seconds": round(facts.eta) if running and facts.eta is not None else None,
        "engine_deaths": history.count("engine_died"),
        "models": [_lane(lane, facts.present.models, state) for lane in facts.lanes],
        "engines": list(facts.present.engines),
    }


def _lane(lane: Lane, models: Mapping[str, Mapping[str, Any]], state: State) -> dict[str, Any]:
    """Return how much of a batch one model has done, and whether its turn is to come; "model" is null if none yet."""
    counts = {"total": lane.total, "done": lane.total - lane.left - lane.in_flight, "in_flight": lane.in_flight}
    standing = models.get(lane.model, {}) if lane.left or lane.in_flight else {}
    if lane.model in state.parked_for and state.parked and not standing.get("why"):
        standing = {"state": "failed", "why": state.parked}  # as it was found before, by an earlier daemon perhaps
    return {"model": lane.model or None, **counts} | {
        key: standing.get(key) for key in ("state", "since", "turn_by", "why")
    }


def not_taken(name: str, file: str, why: str, now: float) -> dict[str, Any]:
    """Return the `status.json` of a file that stands in the inbox: no batch yet, so it has no id. `now` as above."""
    return {
        "schema": SCHEMA,
        "id": "",
        "object": "batch",
        "name": name,
        "endpoint": "",
        "input_file_id": shown(file),
        "status": BatchStatus.VALIDATING.value,
        "created_at": int(now),
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "errors": None,
        "updated_at": round(now, 1),
        "not_taken": why,
    }


def end(told: Mapping[str, Any], folder: Path, host: str) -> dict[str, Any]:
    """Return what `batches.ended` gets on stdin: of the last status what fits a pipe, and where the batch lies."""
    keys = ("id", "name", "input_file_id", "status", "request_counts", "usage", "created_at", "updated_at")
    problems = (told.get("errors") or {}).get("data") or [None]
    said = {key: told.get(key) for key in keys} | {"name": folder.name}
    return {"schema": SCHEMA, **said, "problem": problems[0], "folder": str(folder), "host": host}


def _different(engines: Sequence[Any]) -> list[Any]:
    """Return each once: models that took turns were loaded again and again."""
    first: dict[bytes, Any] = {}
    for engine in engines:
        said = orjson.loads(dumps(engine))  # as the history has it once it was read back
        first.setdefault(dumps(said | {"load_seconds": 0}), engine)
    return list(first.values())


def receipt(facts: Facts, merged: dict[str, Merged], kept: str | None, now: float) -> dict[str, Any]:
    """Return `receipt.json`: what went in, what came out, by what.

    Args:
        kept: the file beside it that has the requests, if there is one.
        now: Unix seconds.
    """
    accepted, history = facts.state.accepted, facts.history
    started = history.stamp("started")
    worked = [e["engine"] for e in history.events if e["event"] == "engine" and e.get("engine")]
    engines = _different(worked) if len(facts.lanes) > 1 or facts.present.models else worked
    files = {name: asdict(part) for name, part in merged.items() if part.lines or not name.startswith("retry")}
    return {
        "schema": SCHEMA,
        "id": facts.id,
        "name": facts.name,
        "status": facts.state.status.value,
        "input": {
            "file": facts.source,
            "bytes": accepted.bytes if accepted else 0,
            "sha256": accepted.sha256 if accepted else None,
            "content_sha256": accepted.content_sha256 if accepted else None,
            "requests": accepted.requests if accepted else 0,
            "model_from": "name" if accepted and accepted.named else "lines",
            "kept": kept,
        },
        "answers": facts.tally.completed,
        "errors": facts.tally.failed,
        "files": files,
        "problem": facts.state.rejected,
        "usage": facts.tally.usage(),
        "times": {
            "created_at": facts.created,
            "in_progress_at": started,
            "finished_at": round(now, 1),
            "seconds": round(facts.age, 1),
            "busy_seconds": round(facts.busy, 2),
        },
        "energy_joules": round(facts.energy) if facts.energy is not None else None,
        "resumed": history.count("resumed"),
        "engine_deaths": history.count("engine_died"),
        "parked": [{"at": int(e["at"]), "reason": e["reason"]} for e in history.events if e["event"] == "parked"],
        "engines": engines,
        "inbox_daemon": __version__,
    }
