"""What a daemon says of itself, for every view: its engines, its work, its host. Pure: facts in, dictionaries out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from inbox_daemon.batch.status import Tally
from inbox_daemon.records import Alert, EngineInfo, EngineState, EngineStats, Gpus, Host


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """The one engine at one moment.

    Attributes:
        since: Unix seconds of the present state.
        starts, deaths: in the life of this daemon.
        in_flight: requests that it has, of all batches.
    """

    state: EngineState
    phase: str
    info: EngineInfo | None
    stats: EngineStats
    last_death: str | None
    since: float
    starts: int
    deaths: int
    in_flight: int


def engine_view(facts: EngineFacts) -> dict[str, Any]:
    """Return what the engine is doing now, for every status."""
    view: dict[str, Any] = {"state": facts.state.value, "since": round(facts.since, 1)}
    if facts.phase:
        view["phase"] = facts.phase
    if facts.info:
        view |= {"model": facts.info.model, "version": f"{facts.info.kind} {facts.info.version}"}
        view["replicas"] = facts.info.replicas
    if facts.state is EngineState.READY:
        view |= asdict(facts.stats)
    view |= {"starts": facts.starts, "deaths": facts.deaths, "in_flight": facts.in_flight}
    if facts.last_death:
        view["last_death"] = facts.last_death
    return view


def requests_view(totals: Tally, progress_at: float) -> dict[str, Any]:
    """Return what this daemon has recorded since its start; `progress_at` is in Unix seconds."""
    return asdict(totals) | {"progress_at": round(progress_at, 1)}


def daemon_view(
    engine: dict[str, Any], requests: dict[str, Any], gpus: Gpus, host: Host, alerts: Sequence[Alert]
) -> dict[str, Any]:
    """Return what a daemon says of itself in SPOOL/daemons, and all that its metrics are made of."""
    return {
        "engine": engine,
        "requests": requests,
        "gpus": asdict(gpus),
        "host": asdict(host),
        "alerts": [asdict(alert) for alert in alerts],
    }


def summary(
    batches: int, requests: tuple[int, int], suspended: int, engine: dict[str, Any], alerts: Sequence[str]
) -> str:
    """Return the one line of `systemctl status`. `requests` are those done and all of them."""
    said = f"{batches} batches, {requests[0]} of {requests[1]} requests" if batches else "no batch"
    said += f", {suspended} suspended" if suspended else ""
    phase = f" ({engine['phase']})" if engine.get("phase") else ""
    said += f"; engine {engine['state']}{phase}"
    return said + (f"; alerts: {', '.join(sorted(set(alerts)))}" if alerts else "")
