"""What the picture of `top` is put together from: panels, bars, lists of facts. Knows nothing of what they show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import ROUNDED
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from inbox_daemon.text import shown

_BAR = 24
_COMFORTABLE = 50  # columns for a panel


def panel(title: str, inside: RenderableType, style: str = "bright_black") -> Panel:
    return Panel(inside, title=Text(shown(title), style="bold"), title_align="left", box=ROUNDED, border_style=style)


class SideBySide:
    """Panels in rows: two in one, more where the terminal is wide; a single panel takes all of it."""

    def __init__(self, panels: Sequence[Panel]) -> None:
        self._panels = panels

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = min(max(2, options.max_width // _COMFORTABLE), len(self._panels))
        grid = Table.grid(expand=True)
        for _ in range(columns):
            grid.add_column(ratio=1)
        for at in range(0, len(self._panels), columns or 1):
            grid.add_row(*self._panels[at : at + columns])
        yield grid


def facts(rows: Iterable[tuple[str, RenderableType | None]]) -> Table:
    """A name and a value a line; a value of None is no line."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    for name, value in rows:
        if value is not None:
            grid.add_row(name, Text(shown(value)) if isinstance(value, str) else value)
    return grid


def bar(share: float | None, beside: str = "", warn: float = 2.0) -> RenderableType | None:
    """A bar for a share of 0 to 1, in red from `warn` on; None where it is not known."""
    if share is None:
        return None
    style = "red" if share >= warn else "green"
    drawn = ProgressBar(total=1.0, completed=share, width=_BAR, complete_style=style, finished_style=style)
    grid = Table.grid(padding=(0, 1))
    grid.add_row(drawn, Text(f"{share:4.0%}"), Text(beside, style="dim"))
    return grid
