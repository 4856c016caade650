"""`inbox-daemon check`: every fault of a file at once, by the daemon's own rules, without an engine or a GPU."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from inbox_daemon.cli import given, show
from inbox_daemon.cli.alike import Kinds
from inbox_daemon.cli.settings import settings
from inbox_daemon.config import Config
from inbox_daemon.errors import Rejected
from inbox_daemon.records import Fault
from inbox_daemon.request.reading import Found, Reading, rules_of
from inbox_daemon.spool import files, ingest, source
from inbox_daemon.text import dumps, shown

_ABOUT = """\
Find every fault of a file at once, by the daemon's own rules, without an engine or a GPU.

vLLM itself is not asked: whether a prompt is longer than the model takes, a schema compiles or a parser for tools is
set, the run says, as an error of that request.
"""


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = _ABOUT
    verb.formatter_class = argparse.RawDescriptionHelpFormatter
    given.add(verb, "what messages call what comes on stdin; with a suffix where it comes compressed")
    verb.add_argument("--model", metavar="NAME", help="the model that will serve it; unset, any model name passes")
    verb.add_argument("--json", action="store_true", help="one object a file, for programs")
    verb.set_defaults(go=go)


@dataclass(slots=True)
class Faults:
    """What is wrong with one file.

    Attributes:
        fatal: why the file as a whole is no batch, or None.
        found: (line number, fault), the first ones of them.
        kinds: all of them.
        warnings: what is no fault and not what was meant either, a sentence each.
    """

    requests: int = 0
    count: int = 0
    fatal: str | None = None
    found: list[tuple[int, Fault]] = field(default_factory=list)
    kinds: Kinds = field(default_factory=Kinds)
    warnings: list[str] = field(default_factory=list)


def faults_of(path: Path, read: Config, limit: int = 10_000, name: str = "") -> Faults:
    """Check a file; at most `limit` faults are kept, all are counted. Raises OSError where there is no such file.

    Args:
        name: under which it is to be dropped where that says a model, so that no line need name one.
    """
    faults = Faults()
    path.stat()
    try:
        fd = source.open_regular(path, follow=True)
    except Rejected as rejected:
        return Faults(fatal=str(rejected))
    try:
        _read(path, fd, read, faults, limit, name)
    except Rejected as rejected:
        faults.fatal = str(rejected)
    finally:
        os.close(fd)
    if not faults.requests and not faults.fatal:
        faults.fatal = f"{shown(path.name)}: holds no request: it is empty or has only blank lines"
    return faults


def _read(path: Path, fd: int, read: Config, faults: Faults, limit: int, name: str) -> None:
    unordered = replace(read.inbox, group_prefixes=False, share_answers=False)  # nothing is going to be run
    rules = rules_of(replace(read, inbox=unordered))
    if name:
        rules = replace(rules, model_fault=lambda model: None, slugs={})
    plain = path.name.endswith(".jsonl")
    with tempfile.TemporaryFile() as copy:  # repeated ids are settled by reading a line again, by its offset
        lines = fd if plain else copy.fileno()
        reading = Reading(rules, partial(ingest.read_line, lines), shown(name or path.name))
        for block in source.blocks(fd, path, rules.inbox.max_file_bytes):
            if not plain:
                files.write_all(lines, block, Path(tempfile.gettempdir()))
            _note(reading.feed(block), faults, limit)
        _note(reading.finish(), faults, limit)
    faults.requests, faults.count = len(reading.index), reading.faults
    faults.warnings = reading.warnings()


def _note(lines: Iterable[Found | None], faults: Faults, limit: int) -> None:
    for found in lines:
        if found:
            _, number, fault = found
            faults.kinds.note(number, fault)
            if len(faults.found) < limit:
                faults.found.append((number, fault))


def go(asked: argparse.Namespace) -> int:
    read = settings(asked)
    clean = True
    with given.read(asked.files, asked.name, otherwise="stdin") as some:
        for path, called in some:
            faults = faults_of(path, read)
            clean &= not (faults.count or faults.fatal)
            if asked.json:
                sys.stdout.buffer.write(dumps(_object(called, faults)) + b"\n")
            else:
                report(called, faults)
    return 0 if clean else 1


def report(path: Path, faults: Faults) -> None:
    """Say what was found; faults that are equal are counted."""
    for sentence in faults.kinds.sentences(path):
        show.say(sentence)
    if faults.fatal:
        show.say(f"{path}: {faults.fatal}")
    for sentence in faults.warnings:
        show.say(f"{path}: warning: {sentence}")
    good = faults.requests - faults.count
    show.say(f"{path}: {good:,} of {faults.requests:,} requests can run")


def _object(path: Path, faults: Faults) -> dict[str, Any]:
    listed = [
        {
            "line": number,
            "code": fault.code,
            "message": fault.message,
            "param": fault.param,
            "custom_id": fault.custom_id,
        }
        for number, fault in faults.found
    ]
    return {
        "file": str(path),
        "requests": faults.requests,
        "faulty": faults.count,
        "fatal": faults.fatal,
        "faults": listed,
        "kinds": faults.kinds.objects(),
        "warnings": faults.warnings,
    }
