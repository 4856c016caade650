"""`inbox-daemon results NAME`: a batch's answers to stdout, those so far while it runs."""

from __future__ import annotations

import argparse
import csv
import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from inbox_daemon.cli import show
from inbox_daemon.cli.exits import NOT_FOUND
from inbox_daemon.cli.settings import settings
from inbox_daemon.cli.status import exit_status
from inbox_daemon.compare import answers
from inbox_daemon.layout import Spool
from inbox_daemon.request.output import failure
from inbox_daemon.spool import published, views
from inbox_daemon.spool.parts import part_name
from inbox_daemon.spool.said import Said

_ABOUT = """\
Print a batch's answers, one output line of OpenAI's form each: in the file's order once the batch has ended, as they
come while it runs. What is printed while it runs is printed once.

  inbox-daemon results candidates | jq -r .response.body.choices[0].message.content
  inbox-daemon results candidates --errors
  inbox-daemon results candidates --csv custom_id,content,finish_reason,output_tokens > answers.csv

Exit status: 0 printed; 1 a file cannot be read, or whoever reads has gone; 4 no such batch. With --follow it
is the batch's: 0 completed, 3 with errors, 1 failed or cancelled, or no daemon runs that would end it.
"""
_POLL = 0.5  # seconds


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = _ABOUT
    verb.formatter_class = argparse.RawDescriptionHelpFormatter
    verb.add_argument("name", metavar="NAME", help="the batch, as its folder in the outbox is called")
    verb.add_argument("--errors", action="store_true", help="the requests without an answer, instead of the answers")
    verb.add_argument("--follow", action="store_true", help="go on until the batch has ended; the exit status says how")
    fields = ", ".join(FIELDS)
    verb.add_argument(
        "--csv",
        metavar="FIELDS",
        type=_fields,
        help=f"a table of these, separated by commas: {fields}; or the path to anything in a line, such as "
        "response.body.usage.total_tokens. Cells are as they are: a spreadsheet may take one that begins with = "
        "for a formula",
    )
    verb.set_defaults(go=go)


def go(given: argparse.Namespace) -> int:
    spool = published.there(Spool(Path(settings(given).spool)))
    folder = spool.batch(given.name)
    if not published.is_folder(folder.dir) or published.is_notice(folder):
        why = views.because(spool, given.name) if published.is_to_come(spool, given.name) else None
        told = (
            f"{given.name}: not taken yet{why}"
            if why is not None
            else f"no batch called {given.name} in {spool.outbox}"
        )
        show.say(f"inbox-daemon: {told}", show.errors)
        return NOT_FOUND
    said = Said(folder, errors=given.errors)
    write = _table(given.csv) if given.csv else sys.stdout.buffer.writelines
    while True:
        write(said.new())
        sys.stdout.buffer.flush()
        if said.complete or not given.follow:
            break
        if gone := views.no_daemon(spool):
            show.say(f"{given.name} has not ended, and {gone}", show.errors)
            break
        time.sleep(_POLL)
    return _end(spool, given, said)


def _end(spool: Spool, given: argparse.Namespace, said: Said) -> int:
    """Say on stderr what a reader of the lines could not know, and return the exit status."""
    if said.missing and not (said.complete and published.exists(spool.batch(given.name).results)):
        first, rest = part_name(said.missing[0]), len(said.missing) - 1
        some = f"{first} and {rest} more were taken away: their" if rest else f"{first} was taken away: its"
        show.say(f"{given.name}: {some} lines are missing here", show.errors)
    status = published.status(spool, given.name)
    if status is None or said.complete:
        return exit_status(status) if status is not None and given.follow else 0
    counts = status["request_counts"]
    done = counts["completed"] + counts["failed"]
    show.say(f"{given.name}: {show.word(status)}, {done:,} of {counts['total']:,} done so far", show.errors)
    return 1 if given.follow else 0


# -- as a table


def _said(line: dict[str, Any]) -> answers.Answer:
    body = (line.get("response") or {}).get("body")
    return answers.read(body if isinstance(body, dict) else {})


def _finish(line: dict[str, Any]) -> Any:
    body = (line.get("response") or {}).get("body") or {}
    return next((choice.get("finish_reason") for choice in body.get("choices") or ()), body.get("status"))


def _failed(attribute: str, line: dict[str, Any]) -> Any:
    said = failure(line)
    return getattr(said.fault, attribute) if said else None


FIELDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "custom_id": lambda line: line.get("custom_id"),
    "content": lambda line: _said(line).text,
    "finish_reason": _finish,
    "model": lambda line: ((line.get("response") or {}).get("body") or {}).get("model"),
    "input_tokens": lambda line: _said(line).input_tokens,
    "output_tokens": lambda line: _said(line).output_tokens,
    "line": lambda line: line.get("line"),
    "code": partial(_failed, "code"),
    "message": partial(_failed, "message"),
}


def _fields(text: str) -> list[str]:
    """Return the fields. Raises ArgumentTypeError where one is neither a word of ours nor a path."""
    fields = [field.strip() for field in text.split(",")]
    for field in fields:
        if field not in FIELDS and "." not in field:
            known = ", ".join(FIELDS)
            raise argparse.ArgumentTypeError(f"{field!r} is none of {known}, and no path such as response.status_code")
    return fields


def _table(fields: Sequence[str]) -> Callable[[Iterator[bytes]], None]:
    """Write the row of heads, and return what writes lines as rows."""
    sys.stdout.buffer.write(_row(fields))

    def write(lines: Iterator[bytes]) -> None:
        for line in lines:
            parsed = orjson.loads(line)
            found = [FIELDS[field](parsed) if field in FIELDS else _at(parsed, field) for field in fields]
            sys.stdout.buffer.write(_row([_cell(value) for value in found]))

    return write


def _row(cells: Sequence[Any]) -> bytes:
    row = io.StringIO(newline="")
    csv.writer(row).writerow(cells)
    return row.getvalue().encode("utf-8", "replace")


def _at(value: Any, path: str) -> Any:
    for key in path.split("."):
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def _cell(value: Any) -> Any:
    return orjson.dumps(value).decode() if isinstance(value, dict | list) else value
