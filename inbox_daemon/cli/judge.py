"""`inbox-daemon judge NAME NAME … --with MODEL`: a model says which of two answers is better, in a batch of its own."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from inbox_daemon.cli import show
from inbox_daemon.cli.compare import folders_of
from inbox_daemon.cli.settings import settings
from inbox_daemon.compare import columns, judging
from inbox_daemon.compare.columns import Columns
from inbox_daemon.compare.judging import Candidate
from inbox_daemon.errors import InboxDaemonError
from inbox_daemon.layout import Published, Spool, batch_name
from inbox_daemon.request.named import AT
from inbox_daemon.request.reading import models_of
from inbox_daemon.spool import drop, published, source

_ABOUT = """\
Have a model judge: for a sample of requests it is shown the answers of every two batches, in both orders, and says
which one is better. That is a batch of its own, judge-NAME; once it has ended, `compare --judge` reads its verdicts.

  inbox-daemon judge candidates@qwen candidates@gemma --with Qwen/Qwen3-32B
  inbox-daemon compare candidates@qwen candidates@gemma --judge judge-candidates
"""


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = _ABOUT
    verb.formatter_class = argparse.RawDescriptionHelpFormatter
    verb.add_argument("batches", nargs="+", metavar="BATCH", help="two or more: names in the outbox, or their folders")
    verb.add_argument(
        "--with", dest="judge", metavar="MODEL", required=True, help="the judge, as a daemon here serves it"
    )
    verb.add_argument("--input", type=Path, metavar="FILE", help="the file that was dropped, where no input.jsonl is")
    verb.add_argument("--sample", type=int, default=500, metavar="N", help="requests that are judged, default 500")
    verb.add_argument("--seed", type=int, default=7, metavar="N", help="which ones; the same seed takes the same")
    verb.add_argument("--criteria", type=Path, metavar="FILE", help="what a good answer is, in a few sentences")
    verb.add_argument("--output", type=Path, metavar="FILE", help="write the lines there, drop nothing; -: stdout")
    verb.set_defaults(go=go)


def go(given: argparse.Namespace) -> int:
    read = settings(given)
    spool = Spool(Path(read.spool))
    folders, receipts = folders_of(given.batches, spool)
    meant = models.meant if (models := models_of(read)) else {}
    _say_where_it_judges_itself(meant.get(given.judge, given.judge), receipts)
    names = [folder.dir.name for folder in folders]
    joined, sides = columns.read(folders)
    asked = given.input or _kept(folders)
    requests = dict(_requests(asked, read.inbox.max_file_bytes))
    chosen = _chosen(sides, joined.places, requests, given.sample, given.seed)
    if not chosen:
        raise InboxDaemonError(f"{asked}: no request of it has two different answers in {', '.join(names)}")
    criteria = given.criteria.read_text(encoding="utf-8") if given.criteria else ""
    told = list(judging.lines(_candidates(sides, chosen, requests), names, given.judge, criteria))
    if given.output is not None:
        return _write(given.output, told)
    with tempfile.TemporaryDirectory() as folder:
        # Without the model that its name may say: it is the judge that answers.
        path = Path(folder) / f"judge-{batch_name(names[0]).partition(AT)[0]}.jsonl"
        path.write_bytes(b"".join(told))
        dropped = drop.drop(spool, path)
    show.say(f"{spool.inbox / dropped.file}: {len(told):,} lines for {given.judge}, on {len(chosen):,} requests")
    return 0


def _say_where_it_judges_itself(judge: str, receipts: Sequence[Mapping[str, Any]]) -> None:
    if judge in {engine.get("model") for receipt in receipts for engine in receipt.get("engines") or ()}:
        show.say(f"{judge} judges answers of its own; models prefer those: take another judge", show.errors)


def _kept(folders: Sequence[Published]) -> Path:
    """Return the requests that lie beside the answers of one of the batches. Raises InboxDaemonError: of none."""
    if found := next((folder.input for folder in folders if published.exists(folder.input)), None):
        return found
    raise InboxDaemonError(f"none of these batches has its {folders[0].input.name}; name the file with --input")


def _write(path: Path, told: Sequence[bytes]) -> int:
    if str(path) == "-":
        sys.stdout.buffer.writelines(told)
    else:
        path.write_bytes(b"".join(told))
    return 0


def _requests(path: Path, most_bytes: int) -> Iterator[tuple[str, str]]:
    """Yield custom_id and text of each request of a file as it was dropped; what is no request is left out."""
    fd = source.open_regular(path, follow=True)
    rest = b""
    try:
        for block in source.blocks(fd, path, most_bytes):
            *whole, rest = (rest + block).split(b"\n")
            yield from filter(None, map(_request, whole))
        if found := _request(rest):
            yield found
    finally:
        os.close(fd)


def _request(line: bytes) -> tuple[str, str] | None:
    try:
        request = orjson.loads(line)
        return request["custom_id"], judging.asked(request["body"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _chosen(
    sides: Sequence[Columns], places: Mapping[str, int], requests: Mapping[str, str], most: int, seed: int
) -> list[tuple[str, int]]:
    """Return (custom_id, place) of a sample of the requests that have two different answers."""
    differing = [
        (custom_id, place)
        for custom_id, place in places.items()
        if custom_id in requests and len({int(side.digest[place]) for side in sides if side.digest[place]}) > 1
    ]
    random.Random(seed).shuffle(differing)
    return sorted(differing[:most], key=lambda each: each[1])


def _candidates(
    sides: Sequence[Columns], chosen: Sequence[tuple[str, int]], requests: Mapping[str, str]
) -> Iterator[Candidate]:
    texts = [columns.texts(side, [place for _, place in chosen]) for side in sides]
    for (custom_id, _), answers in zip(chosen, zip(*texts, strict=True), strict=True):
        yield Candidate(custom_id, requests[custom_id], answers)
