"""`inbox-daemon top`: everything at a glance, from what is published: batches, engines, GPUs, host, alerts, the log."""

from __future__ import annotations

import argparse
import io
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from inbox_daemon.cli import frames, show
from inbox_daemon.cli.settings import settings
from inbox_daemon.layout import Spool
from inbox_daemon.spool import published, views
from inbox_daemon.spool.shapes import BatchObject, DaemonView, EngineView
from inbox_daemon.text import shown

_REPAINT = 1.0  # seconds
_PIPED = 110  # columns where no terminal says how many
_ENDED_SHOWN, _LOG_SHOWN = 3, 8
_IN_BOXES = 4  # GPUs; more of them get a line each
_GIB = 1 << 30
_UNKNOWN = "not known: this daemon is of another release"
_NO_GPUS = {
    "absent": "no NVIDIA GPU here",
    "no_driver": "no driver answers",
    "lost": "a GPU is gone",
    "silent": "the driver does not answer",
}
_ENGINE = {"ready": "green", "loading": "cyan", "backing_off": "red"}
_LEVELS = {"warning": "yellow", "error": "red", "critical": "red"}


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = __doc__
    verb.add_argument("--once", action="store_true", help="print it once and end")
    verb.add_argument("--svg", metavar="FILE", type=Path, help="write it once into an SVG file and end")
    verb.set_defaults(go=go)


def go(given: argparse.Namespace) -> int:
    spool = published.there(Spool(Path(settings(given).spool)))
    statuses = published.Statuses(spool)
    if given.svg:
        given.svg.write_text(svg(_look(spool, statuses)))
    elif given.once or not show.somebody_looks():
        show.console.print(_look(spool, statuses), width=None if show.somebody_looks() else _PIPED)
    else:
        with suppress(KeyboardInterrupt), Live(_look(spool, statuses), console=show.console, screen=True) as live:
            while True:
                time.sleep(_REPAINT)
                live.update(_look(spool, statuses), refresh=True)
    return 0


def _look(spool: Spool, statuses: published.Statuses) -> RenderableType:
    return screen(published.daemons(spool), statuses.read(), published.waiting(spool), time.time())


def svg(picture: RenderableType, width: int = 110) -> str:
    """Return the picture as an SVG of so many columns, which fetches nothing from anywhere."""
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(picture)
    drawn = console.export_svg(title="inbox-daemon top")
    return re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL)  # rich would have them from a CDN


def screen(
    daemons: Sequence[DaemonView], statuses: Sequence[BatchObject], waiting: Mapping[str, str], now: float
) -> RenderableType:
    """Return the whole picture. `now` is in Unix seconds; the rest is what `published` reads."""
    present = [daemon for daemon in daemons if daemon["alive"]]
    live = [status for status in statuses if not views.has_ended(status)]
    if not present:
        live = [views.at_rest(status) for status in live]
    ended = [status for status in statuses if views.has_ended(status)]
    parts: list[RenderableType] = [frames.panel("batches", _batches(live, ended, waiting, now))]
    if len(present) < len(daemons) or not present:
        parts.append(show.daemons([daemon for daemon in daemons if not daemon["alive"]]))
    for daemon in present:
        parts += _daemon(daemon, sum(status.get("output_tokens_per_second") or 0 for status in live), now)
    return Group(*parts)


def _batches(
    live: Sequence[BatchObject], ended: Sequence[BatchObject], waiting: Mapping[str, str], now: float
) -> RenderableType:
    some = [*ended[-_ENDED_SHOWN:], *live]
    parts: list[RenderableType] = [show.batches(some, now)] if some else []
    parts += [show.waiting(waiting)] if waiting else []
    return Group(*parts) if parts else Text("no batch yet", style="dim")


def _daemon(daemon: DaemonView, tokens_per_second: float, now: float) -> Iterator[RenderableType]:
    up = show.duration(now - daemon.get("started_at", now))
    stopping = ", stopping" if daemon.get("stopping") else ""  # before what a narrow terminal cuts off
    who = f"{daemon['hostname']}{stopping}, pid {daemon['pid']}, up {up}"
    engines = views.engines_of(daemon)
    host = frames.panel(who, _host(daemon.get("host") or {}))
    if len(engines) > 1:
        yield frames.SideBySide([frames.panel(f"{len(engines)} engines", _engines(engines, tokens_per_second)), host])
        yield frames.panel("each engine", _each(engines, daemon["hostname"], now))
        if waiting := show.turns(views.standings_of(daemon), now):
            yield frames.panel("models", Text("\n".join(waiting)))
    else:
        inside = _engine(engines[0], tokens_per_second, now) if engines else Text(_UNKNOWN, style="dim")
        yield frames.SideBySide([frames.panel("engine", inside), host])
    yield _gpus(daemon.get("gpus") or {}, now)
    if alerts := daemon.get("alerts"):
        yield frames.panel("alerts", Group(*(_alert(alert, now) for alert in alerts)), "red")
    if lines := (daemon.get("log") or [])[-_LOG_SHOWN:]:
        yield frames.panel("log", Group(*(_line(line) for line in lines)))


def _engine(engine: EngineView, tokens_per_second: float, now: float) -> RenderableType:
    since = f" for {show.duration(now - engine['since'])}" if engine.get("since") else ""
    phase = f", {engine['phase']}" if engine.get("phase") else ""
    model = f"{engine['model']} ({engine['version']})" if engine.get("version") else None
    return frames.facts(
        [
            ("state", Text(shown(f"{engine['state']}{since}{phase}"), style=_style([engine]))),
            ("model", model),
            *_work([engine], tokens_per_second),
            ("last death", Text(shown(engine["last_death"]), style="red") if engine.get("last_death") else None),
        ]
    )


def _engines(engines: Sequence[EngineView], tokens_per_second: float) -> RenderableType:
    """What is said of one engine, of all of them together."""
    models = list(dict.fromkeys(engine["model"] for engine in engines))
    versions = dict.fromkeys(engine["version"] for engine in engines if "version" in engine)
    version = f" ({', '.join(versions)})" if versions else ""
    return frames.facts(
        [
            ("state", Text(shown(show.states(engines)), style=_style(engines))),
            ("model", f"{models[0]}{version}" if len(models) == 1 else f"{len(models)} models{version}"),
            *_work(engines, tokens_per_second),
        ]
    )


def _style(engines: Sequence[EngineView]) -> str:
    """The colour of the worst state that one of them is in."""
    states = {engine["state"] for engine in engines}
    return next((style for state, style in reversed(_ENGINE.items()) if state in states), "")


def _work(engines: Sequence[EngineView], tokens_per_second: float) -> Iterator[tuple[str, RenderableType | None]]:
    """What engines have to do, all together, and how often they began anew."""
    if ready := [engine for engine in engines if engine["state"] == "ready"]:
        load = show.load(ready)
        yield "requests", f"{load.running:,} running, {load.waiting:,} waiting"
        yield "tokens", f"{tokens_per_second:,.0f}/s generated"
        yield "KV cache", frames.bar(load.kv_cache_usage)
    starts = sum(engine.get("starts", 0) for engine in engines)
    deaths = sum(engine.get("deaths", 0) for engine in engines)
    yield "engines", f"{starts} started, {deaths} died" if starts else None


def _each(engines: Sequence[EngineView], here: str, now: float) -> RenderableType:
    """A line an engine. The model is named where there are several, the host where one of them is not this one."""
    models = len({engine["model"] for engine in engines}) > 1
    hosts = any(engine["host"] != here for engine in engines)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for heading, least in (("state", 11), *[("model", 8)] * models, *[("host", 8)] * hosts):
        table.add_column(heading, min_width=least)  # these give way on a narrow terminal
    for heading in ("for", "run", "wait", "KV", "died"):
        table.add_column(heading, justify="right", no_wrap=True)
    for engine in engines:
        phase = f", {engine['phase']}" if engine.get("phase") else ""
        words = [f"{engine['state']}{phase}", *[engine["model"]] * models, *[engine["host"]] * hosts]
        cells = [Text(shown(word), no_wrap=True, overflow="ellipsis") for word in words]
        cells[0].style = _style([engine])
        since = show.duration(now - engine["since"]) if engine.get("since") else ""
        table.add_row(str(engine["engine"]), *cells, since, *_numbers(engine))
    deaths = [Text(shown(line), style="red") for line in show.last_deaths(engines)]
    return Group(table, *deaths)


def _numbers(engine: EngineView) -> Iterator[str]:
    ready = engine["state"] == "ready"
    yield f"{engine.get('running', 0):,}" if ready else ""
    yield f"{engine.get('waiting', 0):,}" if ready else ""
    yield f"{engine.get('kv_cache_usage', 0):.0%}" if ready else ""
    yield f"{engine['deaths']}" if engine.get("deaths") else ""


def _host(host: Mapping[str, Any]) -> RenderableType:
    free = host.get("disk_free_bytes")
    return frames.facts(
        [
            ("memory", frames.bar(host.get("memory_used_ratio"), warn=0.95)),
            ("disk", frames.bar(host.get("disk_used_ratio"), warn=0.95)),
            ("", f"{free / _GIB:,.1f} GiB free" if free is not None else None),
        ]
    )


def _gpus(gpus: Mapping[str, Any], now: float) -> RenderableType:
    state, problem = str(gpus.get("state", "absent")), gpus.get("problem")
    said = _NO_GPUS.get(state)
    devices = gpus.get("devices") or ()
    boxes = [_gpu(device, now) for device in devices]
    if len(devices) > _IN_BOXES:
        boxes = [frames.panel(f"{len(devices)} GPUs", _each_gpu(devices, now))]
    if said:
        style = "dim" if state == "absent" else "red"
        words = f"{said}: {problem}" if problem and state != "absent" else said
        boxes.append(frames.panel("GPU", Text(shown(words), style=style)))
    return frames.SideBySide(boxes)


def _gpu(device: Mapping[str, Any], now: float) -> Panel:
    used, total = device.get("memory_used_bytes"), device.get("memory_total_bytes")
    xid, at = device.get("xid"), device.get("xid_at")
    memory = (
        frames.bar(used / total, f"{used / _GIB:.0f} of {total / _GIB:.0f} GiB") if used is not None and total else None
    )
    return frames.panel(
        f"GPU {device['index']} {device.get('name') or ''}".strip(),
        frames.facts(
            [
                ("busy", frames.bar(device.get("utilization"))),
                ("memory", memory),
                ("", ", ".join(_measures(device)) or None),
                ("slowed by", ", ".join(device.get("throttle") or ()) or None),
                ("Xid", Text(f"{xid}, {show.ago(at, now)}", style="red") if xid is not None else None),
                ("held by", ", ".join(_holders(device.get("processes") or ())) or None),
            ]
        ),
    )


def _each_gpu(devices: Sequence[Mapping[str, Any]], now: float) -> Table:
    """A line a GPU: what its box would say, in fewer words."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("", "busy", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("")  # gives way on a narrow terminal
    for device in devices:
        busy, used, total = (device.get(key) for key in ("utilization", "memory_used_bytes", "memory_total_bytes"))
        known = [", ".join(_holders(device.get("processes") or ())), *(device.get("throttle") or ())]
        rest = Text(no_wrap=True, overflow="ellipsis")
        if device.get("xid") is not None:
            rest.append(f"Xid {device['xid']}, {show.ago(device.get('xid_at'), now)}; ", style="red")
        rest.append(shown("; ".join(one for one in (*known, device.get("name")) if one)), style="dim")
        table.add_row(
            str(device["index"]),
            f"{busy:.0%}" if busy is not None else "",
            f"{used / _GIB:.0f}/{total / _GIB:.0f} GiB" if used is not None and total else "",
            ", ".join(_measures(device)),
            rest,
        )
    return table


def _measures(device: Mapping[str, Any]) -> Iterator[str]:
    if (heat := device.get("temperature_celsius")) is not None:
        yield f"{heat:.0f} °C"
    if (power := device.get("power_watts")) is not None:
        limit = device.get("power_limit_watts")
        yield f"{power:.0f} of {limit:.0f} W" if limit else f"{power:.0f} W"
    if (clock := device.get("sm_clock_hertz")) is not None:
        yield f"{clock / 1e6:,.0f} MHz"


def _holders(processes: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for process in processes:
        memory = process.get("memory_bytes")
        yield f"pid {process['pid']}" + (f" {memory / _GIB:.0f} GiB" if memory else "")


def _alert(alert: Mapping[str, Any], now: float) -> Text:
    style = "red" if alert["severity"] == "critical" else "yellow"
    batch = f"{alert['batch']}: " if alert.get("batch") else ""
    text = f"{alert['name']} for {show.duration(now - alert['since'])}: {batch}{alert['text']}"
    return Text(shown(text), style=style)


def _line(line: Mapping[str, Any]) -> Text:
    when = time.strftime("%H:%M:%S", time.localtime(line["at"]))
    text = Text(
        shown(f"{when} {line['text']}"), style=_LEVELS.get(line["level"], ""), no_wrap=True, overflow="ellipsis"
    )
    text.stylize("dim", 0, len(when))
    return text
