"""`inbox-daemon merge NAME RETRY …`: a batch's answers and those of its retries as one, in the first file's order."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import merge
from pathlib import Path

import orjson

from inbox_daemon.cli import show
from inbox_daemon.cli.given import folder_of
from inbox_daemon.cli.settings import settings
from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import Published, Spool
from inbox_daemon.spool import proof, published
from inbox_daemon.spool.published import opened
from inbox_daemon.spool.said import placed
from inbox_daemon.text import shown

_ABOUT = """\
Put the answers of a batch and of its retries together: each request's answer, from whichever batch has it, in the order
of the first file. A retry is a batch made of the one before's retry.jsonl, or of some of its lines.

  inbox-daemon merge candidates candidates-retry > all.jsonl
  inbox-daemon merge candidates retry-1 retry-2 --output merged/     results.jsonl, and errors.jsonl for what is left
"""


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = _ABOUT
    verb.formatter_class = argparse.RawDescriptionHelpFormatter
    verb.add_argument("name", metavar="NAME", help="a batch that has ended: its folder, or its name in the outbox")
    verb.add_argument("retries", nargs="+", metavar="RETRY", help="its retries, the first one first")
    verb.add_argument(
        "--output", type=Path, metavar="FOLDER", help="a new folder for both files; else answers to stdout"
    )
    verb.set_defaults(go=go)


@dataclass(slots=True)
class Later:
    """What retries say: for each custom_id the file and the offset of its line, and whether that is an answer."""

    lines: dict[str, tuple[Path, int, bool]] = field(default_factory=dict)

    def take(self, retry: Published, open_: set[str]) -> None:
        """Add one retry's lines, and take what it answers out of `open_`, which is what had no answer until now.

        Raises:
            SpoolError: the retry has not ended, or has a request that had an answer or that no batch before it has.
        """
        for path, is_answer in ((retry.results, True), (retry.errors, False)):
            for number, (offset, line) in enumerate(_lines(path), 1):
                custom_id = orjson.loads(line)["custom_id"]
                if custom_id not in open_:
                    what = f"{shown(str(custom_id))!r} is no request that the batches before it left without an answer"
                    raise SpoolError(f"{path} line {number}: {what}; name a batch first, then its retries in order")
                self.lines[custom_id] = (path, offset, is_answer)
        open_ -= {custom_id for custom_id, (path, _, is_answer) in self.lines.items() if is_answer}

    def line(self, custom_id: str | None) -> tuple[bytes, bool] | None:
        found = self.lines.get(custom_id) if custom_id is not None else None
        if found is None:
            return None
        path, offset, is_answer = found
        with opened(path) as file:
            file.seek(offset)
            return file.readline(), is_answer


def go(given: argparse.Namespace) -> int:
    first, *retries = [_ended(given, name) for name in (given.name, *given.retries)]
    _prove_whole(first)
    later, unanswered = Later(), {orjson.loads(line)["custom_id"] for _, line in _lines(first.errors)} - {None}
    for retry in retries:
        later.take(retry, unanswered)
    counts = _to_folder(first, later, given.output) if given.output else _to_stdout(first, later)
    answers, errors = counts
    where = f" in {given.output}" if given.output else ""
    show.say(f"{answers + errors:,} requests = {answers:,} answers + {errors:,} errors{where}", show.errors)
    return 3 if errors else 0


def _ended(given: argparse.Namespace, name: str) -> Published:
    """Return the folder of a batch that has ended with its results. Raises SpoolError."""
    folder = folder_of(name, lambda: published.there(Spool(Path(settings(given).spool))))
    for path in (folder.receipt, folder.results, folder.errors):
        if not published.exists(path):
            raise SpoolError(f"{path} is not there: the batch has not ended, or its files were taken away")
    return folder


def _prove_whole(folder: Published) -> None:
    """Prove that each request of a batch has one line, before anything is written. Raises SpoolError."""
    requests = proof.receipt_of(folder)["input"]["requests"]
    seen = bytearray(requests)
    for path, is_answer in ((folder.results, True), (folder.errors, False)):
        for place, _, _ in _placed(path, is_answer):
            if place >= requests or seen[place]:
                raise _unsound(folder)
            seen[place] = 1
    if not all(seen):
        raise _unsound(folder)


def _unsound(folder: Published) -> SpoolError:
    how = f"inbox-daemon verify {shlex.quote(str(folder.dir))} says what is wrong"
    return SpoolError(f"{folder.dir}: not every request has one line, so nothing is merged; {how}")


def _to_stdout(first: Published, later: Later) -> tuple[int, int]:
    answers = errors = 0
    for line, is_answer in _merged(first, later):
        answers, errors = answers + is_answer, errors + (not is_answer)
        if is_answer:
            sys.stdout.buffer.write(line)
    return answers, errors


def _to_folder(first: Published, later: Later, output: Path) -> tuple[int, int]:
    output.mkdir()
    counts = {True: 0, False: 0}
    into = Published(output)
    with into.results.open("xb") as results, into.errors.open("xb") as errors:
        for line, is_answer in _merged(first, later):
            counts[is_answer] += 1
            (results if is_answer else errors).write(line)
    return counts[True], counts[False]


def _merged(first: Published, later: Later) -> Iterator[tuple[bytes, bool]]:
    """Yield a line for each request of the first batch, in its order, and whether that is an answer."""
    streams = (_placed(first.results, True), _placed(first.errors, False))
    for _, line, is_answer in merge(*streams, key=lambda each: each[0]):
        found = None if is_answer else later.line(orjson.loads(line)["custom_id"])
        yield found or (line, is_answer)


def _placed(path: Path, is_answer: bool) -> Iterator[tuple[int, bytes, bool]]:
    for place, line in placed(path):
        yield place, line, is_answer


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    offset = 0
    with opened(path) as file:
        for line in file:
            yield offset, line
            offset += len(line)
