"""A table that fits where it is shown: what there is no room for gives way, what nothing stands in is left out.

Where no person looks, as in a pipe, every row is one line, however long. Knows nothing of what it shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_BETWEEN = 2  # columns of the terminal
_BAR = 16
_ENOUGH = 28


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        gives_way: when there is no room: 1 first, then 2 and so on; 0 stays.
        folds: a long cell may take several lines.
    """

    heading: str
    cells: Sequence[str | Text | ProgressBar]
    right: bool = False
    gives_way: int = 0
    folds: bool = False

    @property
    def width(self) -> int:
        """How wide it wants to be: all of it, or enough to be read where it folds."""
        whole = max(map(_width, (self.heading, *self.cells)))
        return min(whole, _ENOUGH) if self.folds else whole


def bar(done: int, total: int) -> ProgressBar | str:
    """A bar for a cell; nothing where there is nothing to do."""
    if not total:
        return ""
    return ProgressBar(total=total, completed=done, width=_BAR, complete_style="cyan", finished_style="green")


class Fitting:
    """Rows of cells, drawn with the columns that there is room for."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = [column for column in columns if any(column.cells)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        looked_at = console.is_terminal
        columns = [one for one in self._columns if looked_at or not any(isinstance(c, ProgressBar) for c in one.cells)]
        while _total(columns) > options.max_width and (going := [one for one in columns if one.gives_way]):
            columns.remove(min(going, key=lambda one: one.gives_way))
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(
                column.heading,
                justify="right" if column.right else "left",
                no_wrap=not column.folds,
                overflow="fold",
            )
        for row in zip(*(column.cells for column in columns), strict=True):
            table.add_row(*_texts(row))
        yield table


def _texts(row: Sequence[str | Text | ProgressBar]) -> Iterator[RenderableType]:
    for cell in row:
        yield Text(cell) if isinstance(cell, str) else cell


def _width(cell: str | Text | ProgressBar) -> int:
    if isinstance(cell, ProgressBar):
        return _BAR
    return cell_len(cell if isinstance(cell, str) else cell.plain)


def _total(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + _BETWEEN * (len(columns) - 1)
