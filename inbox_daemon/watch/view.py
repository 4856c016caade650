"""What a daemon says of itself, for every view: its engines, its work, its host. Pure: facts in, dictionaries out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from inbox_daemon.batch.status import Tally
from inbox_daemon.records import Alert, EngineInfo, EngineState, EngineStats, Gpus, Host
from inbox_daemon.spool.shapes import SCHEMA


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """One engine at one moment, or the slot where one may live.

    Attributes:
        number: of its slot, from 1; the same after a restart.
        model: that it has, or would have.
        since: Unix seconds of the present state.
        info: what the last one that was ready said of itself.
        start: which of the daemon's starts of an engine it is; 0: there was none.
        starts, deaths: of this slot, in the life of this daemon.
        in_flight: requests that it has, of all batches.
    """

    number: int
    model: str
    host: str
    state: EngineState
    since: float
    phase: str
    info: EngineInfo | None
    stats: EngineStats
    last_death: str | None
    start: int
    starts: int
    deaths: int
    in_flight: int


def engine_view(facts: EngineFacts) -> dict[str, Any]:
    """Return what an engine is doing now, for every status."""
    view: dict[str, Any] = {"engine": facts.number, "model": facts.model, "host": facts.host}
    view |= {"state": facts.state.value, "since": round(facts.since, 1)}
    if facts.phase:
        view["phase"] = facts.phase
    if facts.info:
        view |= {"model": facts.info.model, "version": f"{facts.info.kind} {facts.info.version}"}
        view["gpus"] = list(facts.info.gpus)
    if facts.state is EngineState.READY:
        view |= asdict(facts.stats)
    view |= {"start": facts.start, "starts": facts.starts, "deaths": facts.deaths, "in_flight": facts.in_flight}
    if facts.last_death:
        view["last_death"] = facts.last_death
    return view


def requests_view(totals: Tally, progress_at: float) -> dict[str, Any]:
    """Return what this daemon has recorded since its start; `progress_at` is in Unix seconds."""
    return asdict(totals) | {"progress_at": round(progress_at, 1)}


def daemon_view(
    engines: Sequence[Mapping[str, Any]],
    standings: Sequence[Mapping[str, Any]],
    requests: dict[str, Any],
    gpus: Gpus,
    host: Host,
    alerts: Sequence[Alert],
) -> dict[str, Any]:
    """Return what a daemon says of itself in SPOOL/daemons, and all that its metrics are made of.

    Args:
        standings: how each of several models stands.
    """
    return {
        "schema": SCHEMA,
        "engines": list(engines),
        "standings": list(standings),
        "requests": requests,
        "gpus": asdict(gpus),
        "host": asdict(host),
        "alerts": [asdict(alert) for alert in alerts],
    }


def summary(
    batches: int, requests: tuple[int, int], suspended: int, engines: Sequence[Mapping[str, Any]], alerts: Sequence[str]
) -> str:
    """Return the one line of `systemctl status`. `requests` are those done and all of them."""
    said = f"{batches} batches, {requests[0]} of {requests[1]} requests" if batches else "no batch"
    said += f", {suspended} suspended" if suspended else ""
    for engine in engines if len(engines) == 1 else ():
        phase = f" ({engine['phase']})" if engine.get("phase") else ""
        said += f"; engine {engine['state']}{phase}"
    if len(engines) > 1:
        states = Counter(engine["state"] for engine in engines)
        said += f"; {len(engines)} engines: " + ", ".join(f"{count} {state}" for state, count in states.items())
    return said + (f"; alerts: {', '.join(sorted(set(alerts)))}" if alerts else "")
