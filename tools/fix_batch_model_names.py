#!/usr/bin/env python3
"""Rewrites the model that every request of a batch file asks for, and nothing else.

A line whose model changes is cut open at the model's name alone, so its spacing, key order, big integers and repeated
keys stay as they were written. Only where `"model"` itself is spelled with escapes is the line written anew, by orjson:
then spacing goes, the last of repeated keys stays, and integers beyond 64 bits become floats. All other lines stay byte
for byte. Needs memory for one line at a time. Never leaves a partial file under OUT's name.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from inbox_daemon.request.catalog import UnknownModel, look_up, table, translate_ollama

NAME = Path(__file__).name
USAGE = """\
%(prog)s [--dry-run] [--force] IN OUT [MODEL]
       %(prog)s [--dry-run] --in-place IN [MODEL]"""
EPILOG = """\
With MODEL, every request gets that model. Without it, Ollama names become Hugging Face names by the packaged table,
Hugging Face names and paths stay, and a name the table does not know stops everything: each is listed, and nothing is
written. Requests that name no model and lines that are not requests stay as they are; the summary counts them.

examples:
  %(prog)s --dry-run questions.jsonl                  what would become of the names
  %(prog)s questions.jsonl fixed.jsonl                llama3.2:3b becomes meta-llama/Llama-3.2-3B-Instruct
  %(prog)s questions.jsonl fixed.jsonl Qwen/Qwen3-8B  every request asks for Qwen/Qwen3-8B
  %(prog)s --in-place questions.jsonl                 the file itself, replaced as a whole

exit status: 0 done, 1 refused or failed (nothing was written), 2 wrong use
"""

_MODEL = re.compile(rb'"model"\s*:\s*("[^"\\]*(?:\\.[^"\\]*)*")')


class Refused(Exception):
    """Nothing was written; the text says why and what to do."""


@dataclass
class Seen:
    """How often something was seen, and in which line first (the file's first line is 1)."""

    what: str
    count: int = 0
    first: int = 0

    def see(self, number: int) -> None:
        self.count += 1
        self.first = self.first or number


@dataclass
class Summary:
    """What became of the lines read so far; models in the order of their appearance."""

    models: Counter[tuple[str, str]] = field(default_factory=Counter)
    unknown: dict[str, Seen] = field(default_factory=dict)
    nameless: Seen = field(default_factory=lambda: Seen("requests that name no model"))
    other: Seen = field(default_factory=lambda: Seen("lines that are not requests"))

    @property
    def changes(self) -> bool:
        return any(old != new for old, new in self.models)


def rewritten(lines: Iterable[bytes], rename: Callable[[str], str], summary: Summary) -> Iterator[bytes]:
    """Yield every line with its model renamed, and count it.

    `rename` raises UnknownModel for a name it cannot place; such a line comes out as it was.
    """
    new_names: dict[str, str] = {}
    for number, whole in enumerate(lines, 1):
        line = whole.removeprefix(BOM_UTF8) if number == 1 else whole
        request = read(line)
        old = None if request is None else request["body"].get("model")
        if old is not None and old not in new_names and old not in summary.unknown:
            try:
                new_names[old] = rename(old)
            except UnknownModel as error:
                summary.unknown[old] = Seen(str(error))
        if request is None:
            if line.strip():
                summary.other.see(number)
        elif old is None:
            summary.nameless.see(number)
        elif old in summary.unknown:
            summary.unknown[old].see(number)
        else:
            summary.models[old, new_names[old]] += 1
            if old != new_names[old]:
                yield whole[: len(whole) - len(line)] + with_model(line, request, new_names[old])
                continue
        yield whole


def read(line: bytes) -> dict[str, Any] | None:
    """Return the request in this line; None when it is no object with a body, or its model is not text."""
    try:
        request: Any = orjson.loads(line)
    except ValueError:
        return None
    body = request.get("body") if isinstance(request, dict) else None
    return request if isinstance(body, dict) and isinstance(body.get("model"), str | None) else None


def with_model(line: bytes, request: dict[str, Any], model: str) -> bytes:
    """Return `line` with its body's model replaced; `request` is the line parsed, and is changed too."""
    request["body"]["model"] = model
    name = orjson.dumps(model)
    for match in _MODEL.finditer(line):  # metadata and tools may have a "model" of their own
        candidate = line[: match.start(1)] + name + line[match.end(1) :]
        if orjson.loads(candidate) == request:
            return candidate
    return orjson.dumps(request) + line[len(line.rstrip()) :]


def check(source: Path, summary: Summary) -> None:
    """Raise Refused when what was read is not to be written."""
    if not (summary.models or summary.unknown or summary.nameless.count):
        hint = "; unpack it first" if source.suffix in (".gz", ".zst") else ""
        raise Refused(f"{source}: holds no batch request (a JSON object with a body, one a line){hint}")
    if summary.unknown:
        names = "".join(
            f"  {seen.what}\n    {requests(seen.count)}, first at line {seen.first:,}\n"
            for seen in summary.unknown.values()
        )
        raise Refused(
            f"{source}: {len(summary.unknown):,} of its model names have no Hugging Face name in the table of "
            f"{table().verified_on}; nothing was written\n{names}"
            "Give MODEL to set one model in every request, or change these names first."
        )


def rewrite(source: Path, target: Path | None, model: str | None) -> Summary:
    """Rewrite `source` to `target`, which is replaced in one step and on disk when this returns.

    Args:
        target: None to count only. `source` itself stays untouched when there is nothing to change.
        model: the new name for every request; None translates Ollama names by the table.

    Raises:
        Refused: names are unknown, there is no request at all, or `source` changed while it was to be replaced.
        OSError: reading or writing failed; nothing is left behind.
    """
    summary = Summary()
    with source.open("rb") as lines:
        new_lines = rewritten(lines, translate_ollama if model is None else lambda _: model, summary)
        if target is None:
            for _ in new_lines:
                pass
            check(source, summary)
            return summary
        before = version(os.fstat(lines.fileno()))
        descriptor, name = tempfile.mkstemp(prefix=f".{NAME}.", dir=target.parent)  # hidden: an inbox overlooks it
        try:
            with open(descriptor, "wb") as out:
                out.writelines(new_lines)
                check(source, summary)
                make_durable(out, target)
            if target == source and not summary.changes:
                return summary
            if target == source and version(source.stat()) != before:
                raise Refused(f"{source}: changed while it was read; try again when its writer has finished")
            Path(name).replace(target)
        finally:
            Path(name).unlink(missing_ok=True)
    sync_folder(target.parent)
    return summary


def version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def make_durable(out: BinaryIO, target: Path) -> None:
    """Give the temporary file the mode and owner of what it replaces, or a new file's usual mode, and sync it."""
    out.flush()
    descriptor = out.fileno()
    try:
        old = target.stat()
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(descriptor, 0o666 & ~mask)
    else:
        with suppress(PermissionError):  # only root can give a file away; otherwise it is the caller's from now on
            os.fchown(descriptor, old.st_uid, old.st_gid)
        os.fchmod(descriptor, old.st_mode & 0o7777)
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def requests(count: int) -> str:
    return f"{count:,} request{'' if count == 1 else 's'}"


def report(summary: Summary) -> Iterator[str]:
    """Yield the lines that say what was done."""
    for (old, new), count in summary.models.items():
        if old == new:
            yield f"{old}: {requests(count)}, unchanged"
            continue
        yield f"{old} -> {new}: {requests(count)}"
        entry = look_up(old)
        if entry and entry.note and entry.name == new:
            yield f"    note: {entry.note}"
    for seen in (summary.nameless, summary.other):
        if seen.count:
            yield f"left as they are: {seen.count:,} {seen.what}, first at line {seen.first:,}"


def arguments(words: list[str] | None) -> argparse.Namespace:
    """Return the command line as source, target (a Path; None only in a dry run), model, in_place, dry_run, force."""
    parser = argparse.ArgumentParser(
        prog=NAME,
        usage=USAGE,
        description="Rewrite the model that every request of a batch file asks for, and nothing else.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="IN", type=Path, help="the batch file: .jsonl, not packed")
    parser.add_argument("rest", metavar="OUT [MODEL]", nargs="*", help="the file to write; the model's new name")
    parser.add_argument("--in-place", action="store_true", help="replace IN itself, in one step; its mode stays")
    parser.add_argument("--dry-run", action="store_true", help="show what would change; write nothing")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    given = parser.parse_intermixed_args(words)
    if given.in_place:
        given.source = given.source.resolve()  # a link stays a link; the file it leads to is replaced
        given.rest.insert(0, given.source)
    if len(given.rest) > 2:
        parser.error(f"too many arguments: {' '.join(map(str, given.rest[2:]))}")
    if not given.rest and not given.dry_run:
        parser.error("name OUT, or say --in-place or --dry-run")
    given.target = Path(given.rest[0]).resolve() if given.rest else None
    given.model = given.rest[1] if len(given.rest) == 2 else None
    if given.model is not None and not given.model.strip():
        parser.error("MODEL is empty")
    return given


def check_target(source: Path, target: Path, in_place: bool, force: bool) -> None:
    """Raise Refused when `target` cannot be written as it was asked for."""
    if not target.parent.is_dir():
        raise Refused(f"{target}: its folder does not exist; OUT is the file to write, and MODEL comes after it")
    if not target.exists():
        return
    if not target.is_file():
        raise Refused(f"{target}: is not a file that could be replaced; name one that does not exist yet")
    if in_place:
        return
    if source.exists() and target.samefile(source):
        raise Refused(f"{target}: is IN itself; say --in-place to replace it")
    if not force:
        raise Refused(f"{target}: exists already; name another OUT, or say --force to replace it")


def main(words: list[str] | None = None) -> int:
    given = arguments(words)
    try:
        if given.target:
            check_target(given.source, given.target, given.in_place, given.force)
        summary = rewrite(given.source, None if given.dry_run else given.target, given.model)
    except Refused as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{NAME}: {error.filename or given.target}: {error.strerror}; nothing was written", file=sys.stderr)
        return 1
    for line in report(summary):
        print(line)
    if given.dry_run:
        print("dry run: nothing was written")
    elif given.in_place and not summary.changes:
        print(f"nothing to change: {given.target} stays as it is")
    else:
        print(f"written: {given.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
