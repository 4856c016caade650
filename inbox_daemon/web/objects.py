"""OpenAI's Batch and File objects, and what they are made of. Pure: facts in, what is told out.

Every field that clients see is made here. What OpenAI has no field for is under `inbox`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, cast

from inbox_daemon.records import BatchStatus
from inbox_daemon.spool import views
from inbox_daemon.spool.shapes import BatchObject
from inbox_daemon.spool.store import StoredFile
from inbox_daemon.spool.submitted import Asked
from inbox_daemon.web import ids

WINDOW = "24h"  # told of a batch that was dropped; nothing expires here


class File(TypedDict):
    """OpenAI's file object. `status` is always "processed": whoever can name a file can read all of it."""

    id: str
    object: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: str
    status_details: None
    expires_at: int | None


class Batch(TypedDict):
    """OpenAI's batch object, and `inbox`, which is ours."""

    id: str
    object: str
    endpoint: str
    model: str | None
    errors: dict[str, Any] | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: dict[str, int]
    usage: dict[str, Any] | None
    metadata: dict[str, str] | None
    inbox: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lying:
    """A file in a batch's folder. `at`: Unix seconds of its last change."""

    filename: str
    bytes: int
    at: int


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of one batch.

    Attributes:
        name: of its folder in the outbox.
        owner: the name of the API key that has made it; "" where none has.
        made: what was asked for by API; None where its file was dropped.
        said: its status.json; of one that has none any more, what was noted of its end. None: its file is in the inbox,
            on its way there, or has just been taken.
        lying: what there is in its folder, by kind (`ids`).
        cancelling: when this process was told to cancel it, in Unix seconds.
        waits: why its file is not taken yet.
    """

    id: str
    name: str
    created_at: int
    owner: str = ""
    made: Asked | None = None
    said: BatchObject | None = None
    lying: Mapping[str, Lying] = field(default_factory=dict)
    cancelling: int | None = None
    waits: str | None = None

    @property
    def status(self) -> str:
        """OpenAI's status."""
        if self.said is None:
            return BatchStatus.CANCELLING if self.cancelling else BatchStatus.VALIDATING
        status = self.said["status"]
        return BatchStatus.CANCELLING if self.cancelling and not BatchStatus(status).final else status

    @property
    def ended(self) -> bool:
        return BatchStatus(self.status).final

    @property
    def ended_at(self) -> int | None:
        """Unix seconds; None where it has not ended, or nobody knows when."""
        at = views.ended_at(self.said) if self.said is not None else None
        return int(at) if at is not None else None

    @property
    def means(self) -> str:
        """The name of a control file for this batch: its own id means no other; before it has one, its name."""
        return str(self.said["id"]) if self.said is not None and self.said.get("id") else self.name


def batch(facts: Facts) -> Batch:
    """Return the batch object."""
    said: Mapping[str, Any] = facts.said or {}
    made = facts.made
    counts: Mapping[str, Any] = said.get("request_counts") or {}
    return {
        "id": facts.id,
        "object": "batch",
        "endpoint": made.endpoint if made else str(said.get("endpoint") or ""),
        "model": said.get("model"),
        "errors": _problems(facts),
        "input_file_id": made.input_file_id if made else _dropped(facts),
        "completion_window": made.completion_window if made else WINDOW,
        "status": str(facts.status),
        "output_file_id": _output(facts, ids.RESULTS) if counts.get("completed") else None,
        "error_file_id": _output(facts, ids.ERRORS),
        "created_at": facts.created_at,
        "in_progress_at": said.get("in_progress_at"),
        "expires_at": None,
        "finalizing_at": said.get("finalizing_at"),
        "completed_at": said.get("completed_at"),
        "failed_at": said.get("failed_at"),
        "expired_at": None,
        "cancelling_at": said.get("cancelling_at") or facts.cancelling,
        "cancelled_at": said.get("cancelled_at"),
        "request_counts": {name: int(counts.get(name) or 0) for name in ("total", "completed", "failed")},
        "usage": said.get("usage") if said.get("in_progress_at") else None,
        "metadata": dict(made.metadata) if made and made.metadata is not None else None,
        "inbox": _ours(facts, said),
    }


def _output(facts: Facts, kind: str) -> str | None:
    """Return the id of a file of a batch that has ended, where there is something in it."""
    lying = facts.lying.get(kind)
    return ids.output_id(facts.id, kind) if facts.ended and lying is not None and lying.bytes else None


def _dropped(facts: Facts) -> str:
    """Return what is told as the input of a batch whose file was dropped: it has an id where its requests are kept."""
    if ids.INPUT in facts.lying:
        return ids.output_id(facts.id, ids.INPUT)
    return str(facts.said.get("input_file_id", "")) if facts.said is not None else ""


def cancelled_early(now: float) -> BatchObject:
    """Return what is noted of a batch that was cancelled before its file was taken. `now` in Unix seconds."""
    stamps = {"cancelling_at": int(now), "cancelled_at": int(now)}
    return cast(BatchObject, {"status": BatchStatus.CANCELLED.value, **stamps})


def lost(now: float) -> BatchObject:
    """Return what is noted of a batch whose folder went before anybody saw it end. `now` in Unix seconds."""
    why = "its folder was removed from the outbox before anybody saw how it ended"
    problems = [{"code": "outbox_removed", "message": why, "param": None, "line": None}]
    errors = {"object": "list", "data": problems}
    return cast(BatchObject, {"status": BatchStatus.FAILED.value, "failed_at": int(now), "errors": errors})


def _problems(facts: Facts) -> dict[str, Any] | None:
    """Return why a batch has failed; of one that has not, faulty lines are in its error file."""
    if facts.status != BatchStatus.FAILED or facts.said is None:
        return None
    problems = (facts.said.get("errors") or {}).get("data") or []
    shown = [{key: one.get(key) for key in ("code", "message", "param", "line")} for one in problems]
    return {"object": "list", "data": shown}


def _ours(facts: Facts, said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what OpenAI's object has no field for."""
    ended = facts.ended
    problems: Mapping[str, Any] = said.get("errors") or {}
    faults = problems.get("data") if facts.status != BatchStatus.FAILED else None
    engines: Sequence[Mapping[str, Any]] = said.get("engines") or ()
    return {
        "name": facts.name,
        "id": said.get("id"),
        "paused": bool(said.get("paused")),
        "parked": said.get("parked"),
        "priority": said.get("priority", 0),
        "eta_seconds": said.get("eta_seconds"),
        "requests_per_second": None if ended else said.get("requests_per_second"),
        "output_tokens_per_second": None if ended else said.get("output_tokens_per_second"),
        "in_flight": said.get("in_flight", 0),
        "waiting_for": None if ended else _waits(facts),
        "engine_state": engines[0].get("state") if engines and not ended else None,
        "retry_file_id": _output(facts, ids.RETRY),
        "faults": faults or None,
    }


def _waits(facts: Facts) -> str | None:
    """Return what a batch waits for, in a word or a sentence; None where it waits for nothing."""
    if facts.said is None:
        return facts.waits
    state = views.batch_state(facts.said)
    if state == "waiting_for_model":
        return f"model {facts.said.get('waiting_for_model')}"
    return state.removeprefix("waiting_for_") if state.startswith("waiting_for_") else None


def upload(stored: StoredFile) -> File:
    """Return the file object of an upload."""
    return _file(stored.id, stored.bytes, stored.created_at, stored.filename, stored.purpose, stored.expires_at)


def output(facts: Facts, kind: str) -> File | None:
    """Return the file object of one that lies in a batch's folder; None where it is not there, or not told yet."""
    lying = facts.lying.get(kind)
    if lying is None or not lying.bytes or (kind != ids.INPUT and not facts.ended):
        return None
    purpose = "batch_output" if kind in (ids.RESULTS, ids.ERRORS) else "batch"
    after, ended_at = facts.made.output_expires_after if facts.made else None, facts.ended_at
    expires = ended_at + after if after is not None and ended_at is not None else None
    name = f"{facts.name}-{lying.filename}"
    return _file(ids.output_id(facts.id, kind), lying.bytes, lying.at, name, purpose, expires)


def _file(id: str, size: int, created_at: int, filename: str, purpose: str, expires_at: int | None) -> File:
    return {
        "id": id,
        "object": "file",
        "bytes": size,
        "created_at": created_at,
        "filename": filename,
        "purpose": purpose,
        "status": "processed",
        "status_details": None,
        "expires_at": expires_at,
    }
