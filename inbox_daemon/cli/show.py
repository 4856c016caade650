"""How batches look to a person: tables, bars and short words. Formats, never reads or decides."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rich.console import Console, Group, RenderableType
from rich.text import Text

from inbox_daemon.cli.table import Column, Fitting, bar
from inbox_daemon.spool import views
from inbox_daemon.spool.shapes import BatchObject, DaemonView, EngineView, StandingView
from inbox_daemon.text import shown, span
from inbox_daemon.text import size as size

_ENDLESS = 100_000  # columns where no person looks: a program reads lines


def _width() -> int | None:
    """Return how wide what is printed may be; None: as the terminal, or COLUMNS, says."""
    looked_at = sys.stdout is not None and sys.stdout.isatty()
    return None if looked_at or "COLUMNS" in os.environ else _ENDLESS


console = Console(highlight=False, width=_width())
errors = Console(stderr=True, highlight=False)

_WAITING_ALIKE = 10  # files that wait for the same, named

_WORDS = {"waiting_for_disk": "disk full", "waiting_for_memory": "memory full", "waiting_for_model": "no engine"}
_ENGINE_STATES = ("ready", "loading", "backing_off", "asleep", "off")
_NOT_YET = ("loading", "backing_off")

_UNITS = {"d": 86400, "h": 3600, "min": 60}
_COLOURS = {"completed": "green", "failed": "red", "cancelled": "yellow", "in_progress": "cyan"}


def say(text: str, to: Console = console) -> None:
    """Print a line of text of whatever origin: none of it is markup, and none of it steers the terminal."""
    to.print(shown(text), markup=False, soft_wrap=True)


def somebody_looks() -> bool:
    return sys.stdout.isatty()


def batches(statuses: Sequence[BatchObject], now: float) -> RenderableType:
    """A line a batch. `now` is in Unix seconds."""

    def column(heading: str, cell: Callable[[BatchObject], str], gives_way: int = 0) -> Column:
        return Column(heading, [cell(status) for status in statuses], right=True, gives_way=gives_way)

    def number(value: float | None, form: str) -> str:
        return format(value, form) if value else ""

    counted = [(views.done(status), status["request_counts"]["total"]) for status in statuses]
    return Fitting(
        [
            Column("batch", [shown(status["name"]) for status in statuses], folds=True),
            Column("status", [state(status) for status in statuses]),
            Column("", [bar(done, total) for done, total in counted], gives_way=1),
            Column("done", [f"{done:,}/{total:,}" for done, total in counted], right=True),
            column("errors", lambda status: number(views.errors(status), ",")),
            column("req/s", lambda status: number(status.get("requests_per_second"), ".1f")),
            column("tok/s", lambda status: number(status.get("output_tokens_per_second"), ",.0f"), gives_way=2),
            column("left", lambda status: duration(status.get("eta_seconds"))),
            column("age", lambda status: about(now - status["created_at"]), gives_way=4),
            column("ended", lambda status: clock(views.ended_at(status), now), gives_way=3),
        ]
    )


def reasons(statuses: Sequence[BatchObject]) -> RenderableType:
    """A line for each batch that failed or does not go on, with the reason."""
    lines = [(status, why) for status in statuses if (why := views.why(status))]
    return Group(*(Text(shown(f"{status['name']}: {word(status)}: {why}"), style="yellow") for status, why in lines))


def word(status: BatchObject) -> str:
    """The one word for a batch's state that a person wants first."""
    state = views.batch_state(status)
    return _WORDS.get(state, state)


def daemons(found: Sequence[DaemonView]) -> RenderableType:
    if not found:
        return Text(views.NO_DAEMON, style="yellow")
    lines = []
    for daemon in found:
        who = views.called(daemon)
        if not daemon["alive"]:
            lines.append(Text(f"{who} has said nothing lately", style="red"))
            continue
        having = engines(views.engines_of(daemon))
        who += ", stopping" if daemon.get("stopping") else ""
        lines.append(Text(f"{who}: {having}" if having else who))
        lines += [Text(f"  {line}") for line in by_model(views.engines_of(daemon))]
        lines += [Text(f"  {line}") for line in turns(views.standings_of(daemon), time.time())]
    return Group(*lines)


def engine(view: EngineView) -> str:
    """One line on what one engine is doing."""
    text = view["state"]
    if view.get("phase"):
        text += f", {view['phase']}"
    if view.get("version"):
        text += f", {view['model']} ({view['version']})"
    if view["state"] == "ready":
        text += f", {_has_to_do([view])}"
    if view.get("last_death"):
        text += f", last died: {view['last_death']}"
    return shown(text)


def engines(some: Sequence[EngineView]) -> str:
    """One line on what engines are doing, all together; "" where nothing is said of any."""
    if len(some) < 2:
        return f"engine {engine(some[0])}" if some else ""
    text = f"{len(some)} engines: {states(some)}"
    if ready := [view for view in some if view["state"] == "ready"]:
        text += f"; {_has_to_do(ready)}"
    return shown(text + "".join(f"; {line}" for line in last_deaths(some)))


def states(some: Sequence[EngineView]) -> str:
    """How many engines are in each state, and what those that load are at: "2 ready, 1 loading (weights)"."""
    counts = Counter(view["state"] for view in some)
    phases = dict.fromkeys(view["phase"] for view in some if view.get("phase"))
    at = f" ({'; '.join(phases)})" if phases else ""
    known = [state for state in _ENGINE_STATES if state in counts]
    return ", ".join(f"{counts[state]} {state}{at if state == 'loading' else ''}" for state in known)


def last_deaths(some: Sequence[EngineView]) -> list[str]:
    """Of engines that died and are not back, how; those of one cause together."""
    causes: dict[str, list[str]] = {}
    for view in some:
        if view.get("last_death") and view["state"] != "ready":
            causes.setdefault(view["last_death"], []).append(str(view["engine"]))
    return [f"{_numbered(numbers)} last died: {cause}" for cause, numbers in causes.items()]


def by_model(some: Sequence[EngineView]) -> list[str]:
    """A line a model, where engines serve several: what those of it are doing."""
    models: dict[str, list[EngineView]] = {}
    for view in some:
        models.setdefault(view["model"], []).append(view)
    if len(models) < 2:
        return []
    return [shown(f"{model}: {states(those)}") for model, those in models.items()]


def turns(some: Sequence[StandingView], now: float) -> list[str]:
    """A line for each of several models that waits, gives way or is not loaded any more."""
    return [shown(line) for view in some if (line := _turn(view, now))]


def _turn(view: StandingView, now: float) -> str:
    if why := view.get("why"):
        return f"{why}; try again with: inbox-daemon resume NAME"
    if view["state"] == "leaving":
        return f"{view['model']} gives way"
    if view["state"] != "waiting":
        return ""
    behind = f" for {' and '.join(view['behind'])}" if view.get("behind") else ""
    return f"{view['model']} waits since {clock(view.get('since'), now)}{behind}, {_its_turn(view.get('turn_by'), now)}"


def _its_turn(turn_by: float | None, now: float) -> str:
    return f"its turn by {clock(turn_by, now)}" if turn_by else "its turn when what is more urgent is done"


def lanes(status: BatchObject, now: float) -> list[str]:
    """A line for each model of a batch that is not loaded, where something of it waits for that."""
    lines = []
    for lane in status.get("models") or ():
        left = lane["total"] - lane["done"]
        if lane["state"] == "waiting" and left:
            due = _its_turn(lane["turn_by"], now)
            lines.append(f"{left:,} requests wait for {lane['model']} since {clock(lane['since'], now)}, {due}")
        elif lane["state"] == "failed" and left:
            lines.append(f"{left:,} requests wait: {lane['why']}")
    return [shown(line) for line in lines]


def _numbered(numbers: Sequence[str]) -> str:
    return f"engine {numbers[0]}" if len(numbers) == 1 else f"engines {', '.join(numbers)}"


class Load(NamedTuple):
    """What engines that answer have to do, all together, and how much of their KV caches is in use."""

    running: int
    waiting: int
    kv_cache_usage: float


def load(ready: Sequence[EngineView]) -> Load:
    running = sum(view.get("running", 0) for view in ready)
    waiting = sum(view.get("waiting", 0) for view in ready)
    return Load(running, waiting, sum(view.get("kv_cache_usage", 0.0) for view in ready) / len(ready))


def _has_to_do(ready: Sequence[EngineView]) -> str:
    all_of_it = load(ready)
    return f"{all_of_it.running} running, {all_of_it.waiting} waiting, KV cache {all_of_it.kv_cache_usage:.0%}"


def waiting(files: Mapping[str, str]) -> RenderableType:
    """The files of the inbox that wait, a line each; of many that wait for the same the first few."""
    alike: dict[str, list[str]] = {}
    for name, why in sorted(files.items()):
        alike.setdefault(why, []).append(name)
    lines: list[str] = []
    for why, names in alike.items():
        lines += [f"{name!r}: {why}" for name in names[:_WAITING_ALIKE]]
        if len(names) > _WAITING_ALIKE:
            lines.append(f"… and {len(names) - _WAITING_ALIKE:,} more: {why}")
    return Group(*(Text(shown(line), style="yellow") for line in lines))


def plain(status: BatchObject) -> str:
    """One line on a batch, for logs and pipes."""
    done, total = views.done(status), status["request_counts"]["total"]
    line = f"{status['name']}: {word(status)}, {done}/{total} done"
    if never := views.never_run(status):
        line += f", {never} without an answer"
    else:
        line += f", {views.errors(status)} errors"
    if status.get("requests_per_second"):
        line += f", {status['requests_per_second']:.1f} requests/s"
    if status.get("eta_seconds") is not None:
        line += f", {duration(status['eta_seconds'])} left"
    serving = views.engines_for(status)
    if why := views.no_model(status):
        line += f"; {why}"
    elif status["status"] in ("validating", "in_progress") and any(view["state"] in _NOT_YET for view in serving):
        line += f"; {engines(serving)}"
    return line


def state(status: BatchObject) -> Text:
    """The batch's one word in its colour."""
    return Text(word(status), style=_COLOURS.get(status["status"], ""))


def clock(at: float | None, now: float) -> str:
    """When something was, in Unix seconds, here: "05:59" today, "Nov 27 05:59" this year; "" where it was not."""
    if at is None:
        return ""
    then, today = time.localtime(at), time.localtime(now)
    if then[:3] == today[:3]:
        return time.strftime("%H:%M", then)
    return time.strftime("%b %d %H:%M" if then.tm_year == today.tm_year else "%Y-%m-%d", then)


def ago(at: float | None, now: float) -> str:
    """How long ago something was; both in Unix seconds."""
    return f"{duration(now - at)} ago" if at else "some time ago"


def about(seconds: float) -> str:
    """A time span in its largest unit: "3 min", "5 h", "12 d"."""
    for unit, least in (("d", 2 * 86400), ("h", 2 * 3600), ("min", 120)):
        if seconds >= least:
            return f"{seconds // _UNITS[unit]:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} s"


def duration(seconds: float | None) -> str:
    return "" if seconds is None else span(seconds)
