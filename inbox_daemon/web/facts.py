"""What the overview and a batch's page say, made of what is published. Pure: statuses in, words and numbers out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlencode

from inbox_daemon.spool import views
from inbox_daemon.spool.shapes import BatchObject, DaemonView
from inbox_daemon.text import span

MOST_COMPARED = 6
_KINDS = {
    "completed": "good",
    "failed": "bad",
    "cancelled": "off",
    "cancelling": "off",
    "paused": "halted",
    "parked": "halted",
    "stands_still": "halted",
    "waiting_for_model": "halted",
    "waiting_for_memory": "halted",
    "waiting_for_disk": "halted",
}
_STATES = {
    "waiting_for_model": "waits for its model",
    "waiting_for_memory": "waits for memory",
    "waiting_for_disk": "waits for disk space",
    "in_progress": "in progress",
    "validating": "being read",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One batch as a line of the overview.

    Attributes:
        id: by which its page is found. state: one word or three; kind: in which colour.
        why: why it failed or stands still, in a sentence.
        going: it has not ended. done, total: requests. share: of them, in whole percent.
        left, took: seconds; None where nobody knows. rate: requests a second; None where it has none now.
        created: Unix seconds. input: the SHA-256 of its file, by which batches of the same requests are found.
        verbs: what may be asked of it now. results: where its answers may be downloaded.
    """

    id: str
    name: str
    state: str
    kind: str
    why: str | None
    going: bool
    done: int
    total: int
    share: int
    errors: int
    left: float | None
    took: float | None
    rate: float | None
    model: str | None
    created: float
    input: str
    verbs: tuple[str, ...]
    results: str | None


def row(status: BatchObject, id: str, results: str | None = None, waits: str | None = None, rests: bool = False) -> Row:
    """Return the line of one batch; `waits` is why its file is not taken yet, `rests`: no daemon runs."""
    state = views.batch_state(status)
    if rests and state in ("in_progress", "finalizing"):
        state = "stands_still"
    ended, done, total = views.ended_at(status), views.done(status), status["request_counts"]["total"]
    going = not views.has_ended(status)
    took = None if going or ended is None else ended - status["created_at"]
    rate = status.get("requests_per_second") if going else done / took if took else None
    return Row(
        id=id,
        name=status["name"],
        state=_STATES.get(state, state.replace("_", " ")),
        kind=_KINDS.get(state, "run"),
        why=waits or views.why(status) or views.no_model(status),
        going=going,
        done=done,
        total=total,
        share=100 * done // total if total else 0,
        errors=views.errors(status),
        left=status.get("eta_seconds") if going else None,
        took=took,
        rate=rate or None,
        model=status.get("model"),
        created=status["created_at"],
        input=status.get("input_sha256") or "",
        verbs=_verbs(state, going),
        results=results,
    )


def _verbs(state: str, going: bool) -> tuple[str, ...]:
    if not going or state in ("cancelling", "finalizing"):
        return ()
    if state == "validating":
        return ("cancel",)
    return ("resume" if state in ("paused", "parked") else "pause", "cancel")


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence above the page: that something is wrong."""

    text: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of every page says of daemons, engines and GPUs; `notices` is what is wrong with them."""

    state: str
    kind: str
    said: tuple[str, ...]
    notices: tuple[Notice, ...]


_WORDS = {"off": "off until there is work", "backing_off": "died; it is started again"}
_ENGINES = {"ready": "run", "loading": "halted", "backing_off": "bad"}


def head(daemons: Sequence[DaemonView], rate: float = 0.0, warn: bool = True) -> Head:
    """Return the head line. `rate`: requests a second of all batches. `warn`: what is no emergency is said as well."""
    alive = [daemon for daemon in daemons if daemon["alive"]]
    if not alive:
        text = "No daemon runs on this spool, so nothing is answered now; what is queued goes on when one does."
        return Head("no daemon", "bad", (), (Notice(f"{text} On its host: sudo systemctl start inbox-daemon", "bad"),))
    engines = [engine for daemon in alive for engine in views.engines_of(daemon)]
    states = Counter(engine["state"] for engine in engines)
    state = next((each for each in _ENGINES if each in states), next(iter(states), ""))
    word = _WORDS.get(state, state) or "daemon runs"
    many = f"{len(engines)} engines: {', '.join(f'{count} {name}' for name, count in states.items())}"
    said = [*dict.fromkeys(engine["model"].rsplit("/", 1)[-1] for engine in engines if engine.get("model"))][:3]
    said += [engine["phase"] for engine in engines if engine.get("phase")][:1]
    said += [f"{rate:.0f} requests/s"] if rate else []
    said += [f"GPU {used:.0%}" for daemon in alive if (used := _gpu(daemon)) is not None][:1]
    return Head(
        many if len(engines) > 1 else f"engine {word}" if engines else word,
        _ENGINES.get(state, "off" if engines else "run"),
        tuple(said),
        tuple(notice for notice in _wrong(alive) if warn or notice.kind),
    )


def _gpu(daemon: DaemonView) -> float | None:
    """Return how much of their time the GPUs compute, on average; None where nobody says."""
    devices = (daemon.get("gpus") or {}).get("devices") or ()
    used = [device["utilization"] for device in devices if device.get("utilization") is not None]
    return sum(used) / len(used) if used else None


def _wrong(alive: Sequence[DaemonView]) -> Iterator[Notice]:
    for daemon in alive:
        if daemon.get("stopping"):
            yield Notice(f"{views.called(daemon)} is stopping; what it has not done, it does after its next start.")
        for alert in daemon.get("alerts") or ():
            yield Notice(str(alert.get("text")), "bad" if alert.get("severity") == "critical" else "")


@dataclass(frozen=True, slots=True)
class Together:
    """Batches that answer the same requests, of which nobody has said yet that they are to be compared."""

    names: list[str]
    href: str


def together(rows: Sequence[Row]) -> Together | None:
    """Return the newest batches that were made of the same file, where there are several of them; else None."""
    return next(iter(groups(rows)), None)


def groups(rows: Sequence[Row]) -> list[Together]:
    """Return all batches that were made of the same file, the newest first; of more than six, the newest six."""
    alike: dict[str, list[Row]] = {}
    for each in rows:
        if each.input and each.done:
            alike.setdefault(each.input, []).append(each)
    taken = [some[:MOST_COMPARED] for some in alike.values() if len(some) > 1]
    return [
        Together([each.name for each in reversed(some)], compare_link([each.id for each in reversed(some)]))
        for some in taken
    ]


def compare_link(ids: Sequence[str]) -> str:
    return f"/compare?{urlencode([('b', id) for id in ids])}"


def summary(going: int, total: int) -> str:
    """Return how many batches there are and how many of them are at work, in words."""
    return f"{total:,} in all, {f'{going:,}' if going else 'none'} at work" if total else ""


def particulars(status: BatchObject, receipt: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is worth knowing of one batch: names and values, those that say nothing left out."""
    counts, usage = status["request_counts"], status.get("usage") or {}
    yield from ((name, value) for name, value in _told(status) if value)
    yield "Answers", f"{counts['completed']:,} of {counts['total']:,}"
    if errors := views.errors(status):
        yield "Errors", f"{errors:,}"
    if never := views.never_run(status):
        yield "Never run", f"{never:,}"
    read, cached = usage.get("input_tokens", 0), (usage.get("input_tokens_details") or {}).get("cached_tokens", 0)
    if read:
        yield "Tokens read", f"{read:,}" + (f", {cached / read:.0%} of them cached" if cached else "")
    if written := usage.get("output_tokens", 0):
        yield "Tokens written", f"{written:,}"
    busy = (receipt.get("times") or {}).get("busy_seconds")
    if busy:
        yield "Engines had work of it for", span(busy)
        yield "While they had", f"{counts['completed'] / busy:,.1f} answers/s, {written / busy:,.0f} tokens/s"
    if joules := receipt.get("energy_joules"):
        yield "Energy of the GPUs", f"{joules / 3600:,.0f} Wh"


def _told(status: BatchObject) -> Iterator[tuple[str, str]]:
    yield "Model", status.get("model") or ", ".join(str(lane["model"]) for lane in status.get("models") or ())
    yield "Endpoint", status.get("endpoint", "")
    ended = views.ended_at(status)
    yield "Took", span(ended - status["created_at"]) if ended else ""
    yield "In the engine now", f"{status['in_flight']:,}" if status.get("in_flight") else ""
    yield "Tokens/s", f"{status['output_tokens_per_second']:,.0f}" if status.get("output_tokens_per_second") else ""
    yield "Priority", str(status.get("priority") or "")
    yield "Sent again", f"{status['resent']:,} times, and run once" if status.get("resent") else ""
    yield "Engine deaths", str(status.get("engine_deaths") or "")
    yield "File", str(status.get("input_file_id") or "")
    yield "Id", status["id"]


_EVENTS = (
    ("created_at", "taken out of the inbox"),
    ("in_progress_at", "first request handed to the engine"),
    ("cancelling_at", "told to cancel"),
    ("finalizing_at", "every request has its outcome; files are put into the input's order"),
    ("completed_at", "completed"),
    ("failed_at", "failed"),
    ("cancelled_at", "cancelled"),
)


def history(status: BatchObject, receipt: Mapping[str, Any]) -> list[tuple[float, str]]:
    """Return what happened to a batch and when, in Unix seconds, in that order."""
    stamps = cast(Mapping[str, Any], status)
    found = [(stamps[key], words) for key, words in _EVENTS if stamps.get(key)]
    found += [(each["at"], f"parked: {each['reason']}") for each in receipt.get("parked") or ()]
    return sorted(found, key=lambda event: event[0])
