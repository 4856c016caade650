"""`inbox-daemon top`: everything at a glance, from what is published: batches, engine, GPUs, host, alerts, the log."""

from __future__ import annotations

import argparse
import io
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.box import ROUNDED
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from inbox_daemon.cli import show
from inbox_daemon.cli.run import settings
from inbox_daemon.layout import Spool
from inbox_daemon.records import BatchStatus
from inbox_daemon.spool import published
from inbox_daemon.text import shown

_REPAINT = 1.0  # seconds
_ENDED_SHOWN = 3
_LOG_SHOWN = 8
_BAR = 24
_GIB = 1 << 30
_NO_GPUS = {
    "absent": "no NVIDIA GPU here",
    "no_driver": "no driver answers",
    "lost": "a GPU is gone",
    "silent": "the driver does not answer",
}
_ENGINE = {"ready": "green", "loading": "cyan", "backing_off": "red"}
_LEVELS = {"warning": "yellow", "error": "red", "critical": "red"}


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser(
        "top", parents=[shared], help="batches, engine, GPUs, alerts at a glance", description=__doc__
    )
    verb.add_argument("--once", action="store_true", help="print it once and end")
    verb.add_argument("--svg", metavar="FILE", type=Path, help="write it once into an SVG file and end")
    verb.set_defaults(go=go)


def go(given: argparse.Namespace) -> int:
    spool = published.there(Spool(Path(settings(given).spool)))
    if given.svg:
        given.svg.write_text(svg(_look(spool)))
    elif given.once or not show.somebody_looks():
        show.console.print(_look(spool))
    else:
        with suppress(KeyboardInterrupt), Live(_look(spool), console=show.console, screen=True) as live:
            while True:
                time.sleep(_REPAINT)
                live.update(_look(spool), refresh=True)
    return 0


def _look(spool: Spool) -> RenderableType:
    return screen(published.daemons(spool), published.statuses(spool), published.waiting(spool), time.time())


def svg(picture: RenderableType, width: int = 110) -> str:
    """Return the picture as an SVG of so many columns, which fetches nothing from anywhere."""
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(picture)
    drawn = console.export_svg(title="inbox-daemon top")
    return re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL)  # rich would have them from a CDN


def screen(
    daemons: Sequence[Mapping[str, Any]],
    statuses: Sequence[Mapping[str, Any]],
    waiting: Mapping[str, str],
    now: float,
) -> RenderableType:
    """Return the whole picture. `now` is in Unix seconds; the rest is what `published` reads."""
    present = [daemon for daemon in daemons if daemon["alive"]]
    live = [status for status in statuses if not BatchStatus(status["status"]).final]
    if not present:
        live = [show.at_rest(status) for status in live]
    ended = [status for status in statuses if BatchStatus(status["status"]).final]
    parts: list[RenderableType] = [_panel("batches", _batches(live, ended, waiting))]
    if len(present) < len(daemons) or not present:
        parts.append(show.daemons([daemon for daemon in daemons if not daemon["alive"]]))
    for daemon in present:
        parts += _daemon(daemon, sum(status.get("output_tokens_per_second") or 0 for status in live), now)
    return Group(*parts)


def _batches(
    live: Sequence[Mapping[str, Any]], ended: Sequence[Mapping[str, Any]], waiting: Mapping[str, str]
) -> RenderableType:
    parts: list[RenderableType] = []
    if some := [*ended[-_ENDED_SHOWN:], *live]:
        parts.append(show.batches(some))
    if waiting:
        parts.append(show.waiting(waiting))
    return Group(*parts) if parts else Text("no batch yet", style="dim")


def _daemon(daemon: Mapping[str, Any], tokens_per_second: float, now: float) -> Iterator[RenderableType]:
    up = show.duration(now - daemon.get("started_at", now))
    who = f"{daemon['hostname']}, pid {daemon['pid']}, up {up}"
    engine = _panel("engine", _engine(daemon.get("engine") or {}, tokens_per_second, now))
    yield _side_by_side([engine, _panel(who, _host(daemon.get("host") or {}))])
    yield _gpus(daemon.get("gpus") or {}, now)
    if alerts := daemon.get("alerts"):
        yield _panel("alerts", Group(*(_alert(alert, now) for alert in alerts)), "red")
    if lines := (daemon.get("log") or [])[-_LOG_SHOWN:]:
        yield _panel("log", Group(*(_line(line) for line in lines)))


def _panel(title: str, inside: RenderableType, style: str = "bright_black") -> Panel:
    return Panel(inside, title=Text(shown(title), style="bold"), title_align="left", box=ROUNDED, border_style=style)


def _side_by_side(panels: Sequence[Panel]) -> Table:
    """Two in a row; a single one takes all of it."""
    grid = Table.grid(expand=True)
    columns = min(2, len(panels))
    for _ in range(columns):
        grid.add_column(ratio=1)
    for at in range(0, len(panels), 2):
        grid.add_row(*panels[at : at + 2])
    return grid


def _facts(rows: Iterable[tuple[str, RenderableType | None]]) -> Table:
    """A name and a value a line; a value of None is no line."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    for name, value in rows:
        if value is not None:
            grid.add_row(name, Text(shown(value)) if isinstance(value, str) else value)
    return grid


def _bar(share: float | None, beside: str = "", warn: float = 2.0) -> RenderableType | None:
    """A bar for a share of 0 to 1, in red from `warn` on; None where it is not known."""
    if share is None:
        return None
    style = "red" if share >= warn else "green"
    bar = ProgressBar(total=1.0, completed=share, width=_BAR, complete_style=style, finished_style=style)
    grid = Table.grid(padding=(0, 1))
    grid.add_row(bar, Text(f"{share:4.0%}"), Text(beside, style="dim"))
    return grid


def _engine(engine: Mapping[str, Any], tokens_per_second: float, now: float) -> RenderableType:
    state = str(engine.get("state", "off"))
    since = f" for {show.duration(now - engine['since'])}" if engine.get("since") else ""
    phase = f", {engine['phase']}" if engine.get("phase") else ""
    ready = state == "ready"
    lives = f"{engine.get('starts', 0)} started, {engine.get('deaths', 0)} died"
    work = f"{engine['running']:,} running, {engine['waiting']:,} waiting" if ready and "running" in engine else None
    return _facts(
        [
            ("state", Text(shown(f"{state}{since}{phase}"), style=_ENGINE.get(state, ""))),
            ("model", f"{engine['model']} ({engine['version']})" if engine.get("model") else None),
            ("requests", work),
            ("tokens", f"{tokens_per_second:,.0f}/s generated" if ready else None),
            ("KV cache", _bar(engine.get("kv_cache_usage"))),
            ("engines", lives if engine.get("starts") else None),
            ("last death", Text(shown(engine["last_death"]), style="red") if engine.get("last_death") else None),
        ]
    )


def _host(host: Mapping[str, Any]) -> RenderableType:
    free = host.get("disk_free_bytes")
    return _facts(
        [
            ("memory", _bar(host.get("memory_used_ratio"), warn=0.95)),
            ("disk", _bar(host.get("disk_used_ratio"), warn=0.95)),
            ("", f"{free / _GIB:,.1f} GiB free" if free is not None else None),
        ]
    )


def _gpus(gpus: Mapping[str, Any], now: float) -> RenderableType:
    state, problem = str(gpus.get("state", "absent")), gpus.get("problem")
    said = _NO_GPUS.get(state)
    boxes = [_gpu(device, now) for device in gpus.get("devices") or ()]
    if said:
        style = "dim" if state == "absent" else "red"
        words = f"{said}: {problem}" if problem and state != "absent" else said
        boxes.append(_panel("GPU", Text(shown(words), style=style)))
    return _side_by_side(boxes)


def _gpu(device: Mapping[str, Any], now: float) -> Panel:
    used, total = device.get("memory_used_bytes"), device.get("memory_total_bytes")
    xid = device.get("xid")
    memory = _bar(used / total, f"{used / _GIB:.0f} of {total / _GIB:.0f} GiB") if used is not None and total else None
    return _panel(
        f"GPU {device['index']} {device.get('name') or ''}".strip(),
        _facts(
            [
                ("busy", _bar(device.get("utilization"))),
                ("memory", memory),
                ("", ", ".join(_measures(device)) or None),
                ("slowed by", ", ".join(device.get("throttle") or ()) or None),
                ("Xid", Text(f"{xid}, {_ago(device.get('xid_at'), now)}", style="red") if xid is not None else None),
                ("held by", ", ".join(_holders(device.get("processes") or ())) or None),
            ]
        ),
    )


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


def _ago(at: float | None, now: float) -> str:
    return f"{show.duration(now - at)} ago" if at else "some time ago"


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
