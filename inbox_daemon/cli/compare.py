"""`inbox-daemon compare NAME NAME …`: batches of the same requests, answered by different models, side by side."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from inbox_daemon.cli import show
from inbox_daemon.cli.given import folder_of
from inbox_daemon.cli.settings import settings
from inbox_daemon.compare import columns, comparison, judging, page, words
from inbox_daemon.compare.answers import normal
from inbox_daemon.compare.shapes import Comparison
from inbox_daemon.errors import InboxDaemonError
from inbox_daemon.layout import Published, Spool
from inbox_daemon.spool import proof
from inbox_daemon.text import dumps, shown

_ABOUT = """\
Hold batches of the same requests against each other, each answered by another model: speed, lengths, what went wrong,
how far they agree and, where you give true labels, which one is right more often, and whether that is more than chance.

  inbox-daemon compare candidates@qwen candidates@gemma candidates@llama
  inbox-daemon compare candidates@* --labels true.csv --field decision --html compare.html
"""
_LABELLED = "label", "decision", "truth", "expected", "answer"  # columns of a file of labels, as people call them


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = _ABOUT
    verb.formatter_class = argparse.RawDescriptionHelpFormatter
    verb.add_argument("batches", nargs="+", metavar="BATCH", help="two or more: their folders, or names in the outbox")
    verb.add_argument("--labels", type=Path, metavar="FILE", help="true labels: .csv or .jsonl, custom_id and label")
    verb.add_argument(
        "--field", metavar="NAME", help="the label's place in an answer's JSON, if it is not found by itself"
    )
    verb.add_argument("--number", metavar="NAME", help="the same for a number, such as a score")
    verb.add_argument("--price", type=float, metavar="N", help="of one GPU for an hour, for the cost of 1,000 answers")
    verb.add_argument(
        "--html", type=Path, metavar="FILE", help="also write a page with plots and the worst disagreements"
    )
    verb.add_argument("--judge", metavar="BATCH", help="the batch of a judge's verdicts (inbox-daemon judge)")
    verb.add_argument("--json", action="store_true", help="print everything as JSON")
    verb.set_defaults(go=go)


def go(given: argparse.Namespace) -> int:
    spool = Spool(Path(settings(given).spool))
    folders, receipts = folders_of(given.batches, spool)
    found = [columns.fields(folder) for folder in folders]
    label = given.field if given.field is not None else _common(field for field, _ in found)
    number = given.number if given.number is not None else _common(field for _, field in found)
    joined, sides = columns.read(folders, label, number)
    truth = read_labels(given.labels) if given.labels else None
    judge = folder_of(given.judge, lambda: spool) if given.judge else None
    said = (judge.dir.name, judging.read(columns.said(judge))) if judge else None
    result = comparison.compare(
        sides, joined, receipts, label=label, number=number, truth=truth, price=given.price, judge=said
    )
    if given.html:
        given.html.write_text(page.html(result), encoding="utf-8")
    if given.json:
        sys.stdout.buffer.write(dumps(result) + b"\n")
        return 0
    show.console.print(drawn(result))
    if given.html:
        show.say(f"{given.html}: the same with plots and {len(result['worst'])} disagreements; open it in a browser")
    return 0


def folders_of(names: Sequence[str], spool: Spool) -> tuple[list[Published], list[Mapping[str, Any]]]:
    """Return the folders of finished batches, named or given as folders, and their receipts.

    Raises:
        InboxDaemonError: there are not two, one stands there twice, or one has not ended.
    """
    folders = [folder_of(name, lambda: spool) for name in names]
    called = [folder.dir.name for folder in folders]
    if len(folders) < 2:
        raise InboxDaemonError("name two batches at least")
    if twice := next((name for name in called if called.count(name) > 1), None):
        raise InboxDaemonError(f"{shown(twice)} stands there twice; batches of one name cannot be told apart")
    return folders, [_receipt(folder) for folder in folders]


def _receipt(folder: Published) -> Mapping[str, Any]:
    try:
        return proof.receipt_of(folder)
    except FileNotFoundError as error:
        raise InboxDaemonError(f"{folder.receipt} is not there: the batch has not ended") from error


def _common(fields: Iterable[str | None]) -> str | None:
    """Return the field that most batches have; a model that gets the form wrong does not decide for all."""
    named = [field for field in fields if field is not None]
    return max(named, key=named.count) if named else None


def read_labels(path: Path) -> dict[str, str]:
    """Return the true label of each custom_id in a file.

    Raises:
        InboxDaemonError: a line has no custom_id or no label, or none of the columns is called like one.
    """
    rows = _jsonl(path) if path.suffix in (".jsonl", ".ndjson") else _csv(path)
    found = {}
    for number, row in rows:
        name = next((name for name in _LABELLED if row.get(name) not in (None, "")), None)
        if name is None or not row.get("custom_id"):
            known = ", ".join(_LABELLED)
            raise InboxDaemonError(f"{path} line {number}: needs custom_id and one of {known}; it has {', '.join(row)}")
        value = row[name]
        found[str(row["custom_id"])] = normal(str(value).lower() if isinstance(value, bool) else str(value))
    return found


def _csv(path: Path) -> Iterable[tuple[int, Mapping[str, object]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            yield reader.line_num, {key.strip().lower(): value for key, value in row.items() if key}


def _jsonl(path: Path) -> Iterable[tuple[int, Mapping[str, object]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = orjson.loads(line)
                except ValueError as error:
                    raise InboxDaemonError(f"{path} line {number}: not JSON: {error}") from error
                yield number, row if isinstance(row, dict) else {}


# -- the table


def drawn(found: Comparison) -> RenderableType:
    """Return the comparison for a terminal: batches as columns, figures as rows, pairs below, the verdict last."""
    lines: list[RenderableType] = []
    if warning := words.warning(found):
        lines.append(Text(warning, style="yellow"))
    lines += [Text(shown(words.summary(found))), Text()]
    names = [side["name"] for side in found["columns"]]
    lines += [_table(["", *names], [[name, *cells] for name, cells in words.figures(found["columns"])]), Text()]
    lines += [_table(*words.pairs(found["pairs"])), Text()]
    if found["fleiss_kappa"] is not None:
        lines.append(Text(f"Fleiss' kappa of all: {found['fleiss_kappa']:.3f}"))
    lines.append(Text(f"{found['disagree']:,} requests on which they differ"))
    if found["judged"]:
        lines += [Text(), Text(shown(words.judge(found))), _table(*words.judged(found)), Text()]
    lines.append(Text(shown(found["verdict"]), style="bold"))
    return Group(*lines)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, head in enumerate(heads):
        table.add_column(Text(shown(head)), justify="right" if at else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    return table
