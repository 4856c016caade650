"""The shape of what is published, as those read it who show it. Types alone: nothing is checked, nothing is done.

Where a key may be missing it is optional here: a daemon of an older release says less, and `schema` tells which one
it was. In schema 1 a daemon had one engine, described under `engine`; of that, nothing is shown. Up to schema 2 the
lines of errors.jsonl had another form (`request.output.failure` reads both).
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

SCHEMA = 3  # of SPOOL/daemons, of status.json and of `status --json`


class EngineView(TypedDict):
    """One engine of a daemon.

    Attributes:
        engine: its number among the daemon's, counted from 1; the next start of it has the same.
        since: Unix seconds at which the present state began.
        phase: what it is at while it loads.
        version: of what serves the model, once it has been ready.
        gpus: names of those it computes on.
        start: which start of the daemon's life it is; 0 before the first.
        in_flight: requests that the daemon has handed to it.
        running, waiting, kv_cache_usage, input_tokens, output_tokens, preemptions: its own count, while it is ready.
    """

    engine: int
    model: str
    host: str
    state: str
    since: NotRequired[float]
    phase: NotRequired[str]
    version: NotRequired[str]
    gpus: NotRequired[list[str]]
    start: NotRequired[int]
    starts: NotRequired[int]
    deaths: NotRequired[int]
    in_flight: NotRequired[int]
    last_death: NotRequired[str]
    running: NotRequired[int]
    waiting: NotRequired[int]
    kv_cache_usage: NotRequired[float]
    input_tokens: NotRequired[int]
    output_tokens: NotRequired[int]
    preemptions: NotRequired[int]


class StandingView(TypedDict):
    """How one of a daemon's several models stands.

    Attributes:
        state: off, asleep, waiting, backing_off, loading, ready, leaving or failed.
        since: Unix seconds from which requests for it have waited, while they do.
        turn_by: when room will be made for it at the latest, if nothing more comes; null: when what is more urgent is
            done. `behind` names those that have their turn now.
        why: it is not loaded any more.
    """

    model: str
    state: str
    since: NotRequired[float]
    turn_by: NotRequired[float | None]
    behind: NotRequired[list[str]]
    why: NotRequired[str]


class LaneView(TypedDict):
    """What one model has to do of a batch, and has done; the rest as in `StandingView`, null where it says nothing."""

    model: str | None
    total: int
    done: int
    in_flight: int
    state: str | None
    since: float | None
    turn_by: float | None
    why: str | None


class DaemonView(TypedDict):
    """What a daemon says of itself in SPOOL/daemons.

    Attributes:
        at: Unix seconds at which it said so; `boot` and `up` say it in seconds of that boot of its kernel, since 0.3.0.
        alive: whether that was lately; put in by who reads it.
        models: names under which requests may ask here, the one it is served by first; with `translate_ollama`, also
            Ollama's names for it.
        standings: how each of several models stands; [] where there is one.
        stopping: it has been told to, and takes nothing on any more.
        waiting: why files in the inbox are not taken yet, by file name; `waiting_unnamed` counts the others.
        batches: how many it has in work.
    """

    hostname: str
    pid: int
    alive: bool
    schema: NotRequired[int]
    started_at: NotRequired[float]
    at: NotRequired[float]
    boot: NotRequired[str]
    up: NotRequired[float]
    models: NotRequired[list[str]]
    translate_ollama: NotRequired[bool]
    engines: NotRequired[list[EngineView]]
    standings: NotRequired[list[StandingView]]
    requests: NotRequired[dict[str, Any]]
    gpus: NotRequired[dict[str, Any]]
    host: NotRequired[dict[str, Any]]
    alerts: NotRequired[list[dict[str, Any]]]
    batches: NotRequired[int]
    stopping: NotRequired[bool]
    log: NotRequired[list[dict[str, Any]]]
    waiting: NotRequired[dict[str, str]]
    waiting_unnamed: NotRequired[int]


class Counts(TypedDict):
    total: int
    completed: int
    failed: int


class BatchObject(TypedDict):
    """A batch's `status.json`: the fields of OpenAI's batch object, and ours.

    Attributes:
        input_mark: of the file as it was dropped, by which who dropped it finds its batch.
        input_bytes, input_sha256: of that file, once it is accepted.
        resent: how often the same bytes were sent again under its name, and not run.
        warnings: what the engine ignores of its requests: which field, in how many of them, and what to write instead.
        parked: why nothing more of it runs until somebody says resume.
        waiting_for_model: the model of its requests, where no engine of its daemon serves it; nothing of it runs.
        waiting_for_memory: its requests do not fit beside those of the batches in work (inbox.max_memory_bytes).
        cannot_load: why its daemon has ended: no engine can be loaded, and what is to be done about it.
        waiting_for_disk_bytes: what must become free before more of it runs.
        not_taken: why its file stands in the inbox and is not taken; it is no batch then, and has no id.
        daemon: which one has it in work; null where none runs, and once it has ended. One that was killed could not say
            so: then `updated_at`, Unix seconds, gets old.
        models: what each model has to do of it, and has done.
        engines: those of that daemon.
    """

    id: str
    name: str
    status: str
    created_at: int
    request_counts: Counts
    schema: NotRequired[int]
    endpoint: NotRequired[str]
    model: NotRequired[str | None]
    completed_at: NotRequired[int | None]
    failed_at: NotRequired[int | None]
    cancelled_at: NotRequired[int | None]
    input_file_id: NotRequired[str]
    input_mark: NotRequired[str]
    input_bytes: NotRequired[int | None]
    input_sha256: NotRequired[str | None]
    resent: NotRequired[int]
    errors: NotRequired[dict[str, Any] | None]
    usage: NotRequired[dict[str, Any] | None]
    daemon: NotRequired[str | None]
    updated_at: NotRequired[float]
    in_flight: NotRequired[int]
    priority: NotRequired[int]
    paused: NotRequired[bool]
    warnings: NotRequired[list[str] | None]
    parked: NotRequired[str | None]
    not_taken: NotRequired[str]
    waiting_for_model: NotRequired[str | None]
    waiting_for_memory: NotRequired[bool]
    cannot_load: NotRequired[str | None]
    waiting_for_disk_bytes: NotRequired[int | None]
    requests_per_second: NotRequired[float | None]
    output_tokens_per_second: NotRequired[float | None]
    eta_seconds: NotRequired[int | None]
    engine_deaths: NotRequired[int]
    models: NotRequired[list[LaneView] | None]
    engines: NotRequired[list[EngineView] | None]
