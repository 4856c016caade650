"""What is wrong with the form of a file, by the daemon's own rules, and what is left of it to be asked about.

Serves `check` and `submit`. Asks nobody, and runs nothing.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import orjson

from inbox_daemon.cli.alike import Kinds
from inbox_daemon.config import Config
from inbox_daemon.errors import Rejected
from inbox_daemon.records import Fault, Request
from inbox_daemon.request import policy
from inbox_daemon.request.catalog import Models
from inbox_daemon.request.reading import Found, Reading, models_of, rules_of
from inbox_daemon.spool import files, ingest, source
from inbox_daemon.text import shown

_COUNTED = 1000  # of models that are counted: a file may name another one in each line
LISTED = 10_000  # faults of a file that are kept, each with its line; all are counted


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

    def note(self, number: int, fault: Fault, limit: int = LISTED) -> None:
        self.count += 1
        self.kinds.note(number, fault)
        if len(self.found) < limit:
            self.found.append((number, fault))


class Names:
    """The names of models in one file's requests, and what is to be said of them: Ollama's, or one of no table."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._counts: Counter[str] = Counter()

    def noting(self, resolve: Callable[[str | None], str]) -> Callable[[str | None], str]:
        """Return the same function, but that it takes note of the names it is asked for."""

        def noted(name: str | None) -> str:
            if name is not None and (name in self._counts or len(self._counts) < _COUNTED):
                self._counts[name] += 1
            return resolve(name)

        return noted

    def sentences(self) -> Iterator[str]:
        """Say of each name what answers it: whoever wrote a quantization is not to wonder whose answers these are."""
        for name, count in self._counts.most_common():
            ask = "1 request asks" if count == 1 else f"{count:,} requests ask"
            if answers := self._models.translated(name):
                yield f"{ask} for {name!r}, Ollama's name of a model: {answers} answers, with its weights as configured"
            elif not self._models.lists(name):
                yield f"{ask} for {name!r}, which has no table: it is loaded as [engine] says (models.allow_any)"


class Form:
    """One file, read once from its first line to its last.

    Attributes:
        faults: of its form.
        fetching: how many requests without a fault have media that vLLM would have to fetch.
    """

    def __init__(self, path: Path, read: Config, lines: int, name: str) -> None:
        unordered = replace(read.inbox, group_prefixes=False, share_answers=False)  # nothing is going to be run
        self.rules = rules_of(replace(read, inbox=unordered))
        self._names = Names(models) if (models := models_of(read)) else None
        if self._names:
            self.rules = replace(self.rules, resolve=self._names.noting(self.rules.resolve))
        if name:
            self.rules = replace(self.rules, model_fault=lambda model: None, slugs={})
        self.faults = Faults()
        self.fetching = 0
        self._fetches = bool(read.requests.allowed_media_domains)  # nothing else may
        self._lines = lines
        self._reading = Reading(self.rules, partial(ingest.read_line, lines), shown(name or path.name))
        self._faulty = array("I")  # places, in their order

    def feed(self, block: bytes | None, limit: int) -> None:
        """Read on; None: to the end of the last line. Raises Rejected."""
        self._note(self._reading.finish() if block is None else self._reading.feed(block), limit)
        self.faults.requests = len(self._reading.index)
        self.faults.warnings = [*self._reading.warnings(), *(self._names.sentences() if self._names else ())]

    def _note(self, lines: Iterable[Found | None], limit: int) -> None:
        for found in lines:
            if found:
                place, number, fault = found
                self._faulty.append(place)
                self.faults.note(number, fault, limit)

    @property
    def models(self) -> frozenset[str]:
        """The names of the models that are to answer; "": whichever is the first."""
        return frozenset(self._reading.models)

    def requests(self, lanes: Container[str]) -> Iterator[Request]:
        """Yield the requests without a fault that these models are to answer, less those that `fetching` counts."""
        index, models = self._reading.index, list(self._reading.models)
        faulty, end = iter(self._faulty), 1 << 62
        next_faulty = next(faulty, -1)
        for place, number in enumerate(index.numbers):
            if place == next_faulty:
                next_faulty = next(faulty, -1)
                continue
            model = models[index.models[place] if index.models else 0]
            if model not in lanes:
                continue
            line = ingest.read_line(self._lines, index.offsets[place], index.end(place, end))
            if self._fetches and _fetches(line):
                self.fetching += 1
                continue
            yield Request(place, f"check-{place}", number, line, model=model)


def _fetches(line: bytes) -> bool:
    request = orjson.loads(line)
    return policy.fetches(request["url"], request["body"])


@contextmanager
def form_of(path: Path, read: Config, limit: int = LISTED, name: str = "") -> Iterator[Form]:
    """Read a file; its requests are to be had within the context.

    Args:
        limit: so many faults are kept with their lines.
        name: under which it is to be dropped where that says a model, so that no line need name one.

    Raises:
        OSError: there is no such file.
    """
    path.stat()
    with ExitStack() as after:
        plain = path.name.endswith(".jsonl")
        copy = after.enter_context(tempfile.TemporaryFile())  # of what comes compressed; lines are read again by offset
        try:
            fd = source.open_regular(path, follow=True)
        except Rejected as rejected:
            form = Form(path, read, -1, name)
            form.faults.fatal = str(rejected)
            yield form
            return
        after.callback(os.close, fd)
        form = Form(path, read, fd if plain else copy.fileno(), name)
        try:
            for block in source.blocks(fd, path, form.rules.inbox.max_file_bytes):
                if not plain:
                    files.write_all(copy.fileno(), block, Path(tempfile.gettempdir()))
                form.feed(block, limit)
            form.feed(None, limit)
        except Rejected as rejected:
            form.faults.fatal = str(rejected)
        if not form.faults.requests and not form.faults.fatal:
            form.faults.fatal = f"{shown(path.name)}: holds no request: it is empty or has only blank lines"
        yield form
