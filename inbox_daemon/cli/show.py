"""How batches look to a person: tables, bars and short words. Formats, never reads or decides."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from inbox_daemon.text import shown
from inbox_daemon.watch.metrics import batch_state

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

_WAITING_ALIKE = 10  # files that wait for the same, named

_COLOURS = {"completed": "green", "failed": "red", "cancelled": "yellow", "in_progress": "cyan"}


def say(text: str, to: Console = console) -> None:
    """Print a line of text of whatever origin: none of it is markup, and none of it steers the terminal."""
    to.print(shown(text), markup=False, soft_wrap=True)


def somebody_looks() -> bool:
    return sys.stdout.isatty()


def batches(statuses: Sequence[Mapping[str, Any]]) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("batch", overflow="fold", max_width=40)
    table.add_column("status", no_wrap=True)
    table.add_column("", min_width=4, max_width=20)  # what gives way on a narrow terminal
    for heading in ("done", "errors", "req/s", "tok/s", "left"):
        table.add_column(heading, justify="right", no_wrap=True)
    for status in statuses:
        counts = status["request_counts"]
        done = counts["completed"] + counts["failed"]
        table.add_row(
            Text(shown(status["name"])),
            Text(word(status), style=_COLOURS.get(status["status"], "")),
            _bar(done, counts["total"]) if counts["total"] else "",
            f"{done:,}/{counts['total']:,}",
            f"{counts['failed']:,}" if counts["failed"] else "",
            f"{status['requests_per_second']:.1f}" if status.get("requests_per_second") else "",
            f"{status['output_tokens_per_second']:,.0f}" if status.get("output_tokens_per_second") else "",
            duration(status.get("eta_seconds")),
        )
    return table


def at_rest(status: Mapping[str, Any]) -> dict[str, Any]:
    """The same batch without what was true only while a daemon said so: how fast it goes, and on what engine."""
    then = ("requests_per_second", "output_tokens_per_second", "eta_seconds", "engine")
    return {**status, **dict.fromkeys(then)}


def _bar(done: int, total: int) -> ProgressBar:
    return ProgressBar(total=total, completed=done, complete_style="cyan", finished_style="green")


def word(status: Mapping[str, Any]) -> str:
    """The one word for a batch's state that a person wants first."""
    state = batch_state(status)
    return "disk full" if state == "waiting_for_disk" else state


def daemons(found: Sequence[Mapping[str, Any]]) -> RenderableType:
    if not found:
        return Text("no daemon runs on this spool: systemctl status inbox-daemon", style="yellow")
    lines = []
    for daemon in found:
        if not daemon["alive"]:
            lines.append(
                Text(f"daemon {daemon['hostname']} (pid {daemon['pid']}) has said nothing lately", style="red")
            )
            continue
        lines.append(Text(f"daemon {daemon['hostname']} (pid {daemon['pid']}): engine {engine(daemon['engine'])}"))
    return Group(*lines)


def engine(view: Mapping[str, Any]) -> str:
    """One line on what the engine is doing."""
    text = str(view["state"])
    if view.get("phase"):
        text += f", {view['phase']}"
    if view.get("model"):
        text += f", {view['model']} ({view['version']})"
    if view["state"] == "ready":
        text += f", {view['running']} running, {view['waiting']} waiting, KV cache {view['kv_cache_usage']:.0%}"
    if view.get("last_death"):
        text += f", last died: {view['last_death']}"
    return shown(text)


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


def plain(status: Mapping[str, Any]) -> str:
    """One line on a batch, for logs and pipes."""
    counts = status["request_counts"]
    done = counts["completed"] + counts["failed"]
    line = f"{status['name']}: {word(status)}, {done}/{counts['total']} done, {counts['failed']} errors"
    if status.get("requests_per_second"):
        line += f", {status['requests_per_second']:.1f} requests/s"
    if status.get("eta_seconds") is not None:
        line += f", {duration(status['eta_seconds'])} left"
    loads = (status.get("engine") or {}).get("state") in ("loading", "backing_off")
    if status["status"] in ("validating", "in_progress") and loads:
        line += f"; engine {engine(status['engine'])}"
    return line


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
