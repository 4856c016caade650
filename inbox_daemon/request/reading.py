"""One pass over a file's lines: what is a request, what is a fault, where each lies.

Owns the cutting into lines and the index. Serves ingest and `inbox-daemon check` alike, so that both say the same;
reads no file itself and never raises on a line's content.
"""

from __future__ import annotations

import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import orjson

from inbox_daemon.config import Config, InboxSettings
from inbox_daemon.config.models import configured
from inbox_daemon.errors import Rejected
from inbox_daemon.records import Fault
from inbox_daemon.request import named, order, policy
from inbox_daemon.request.catalog import Models
from inbox_daemon.request.fields import Ignored
from inbox_daemon.request.index import MOST_MODELS, Index
from inbox_daemon.request.line import Line, but_for_its_id, is_deterministic, read_line, repeated, too_long
from inbox_daemon.request.repeats import Repeats

_IDS_KNOWN = 1024  # custom_ids that were read again and are kept: each may stand in a line of megabytes

_TOO_MANY = f"this is another model than the first {MOST_MODELS} of the file; a file may have no more: make it two"

Found = tuple[int, int, Fault]  # place, line number, fault


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings in force while a file is checked.

    Attributes:
        keep_free: bytes that a copy leaves free on the disk.
        model_fault: says why a request naming this model cannot run here, or None.
        resolve: says which model answers a request that names this one; "": the first that comes to work on it.
        refusal: says why a request to this url with this body may not run here, or None.
        slugs: by what a file's name may say after its last "@", which model then answers all of it.
    """

    inbox: InboxSettings
    keep_free: int
    model_fault: Callable[[str | None], str | None]
    resolve: Callable[[str | None], str]
    refusal: Callable[[str, dict[str, Any]], Fault | None]
    slugs: Mapping[str, str] = field(default_factory=dict)

    def of_model(self, slug: str) -> Rules:
        """Return the rules for a file whose name says by this slug which model answers, whatever its lines name."""
        return replace(self, model_fault=lambda name: None, resolve=lambda name: self.slugs[slug])


def rules_of(config: Config) -> Rules:
    """Return the rules that these settings make. Without a model's name to hold them against, all names pass."""
    models = models_of(config)
    refusal = partial(policy.refusal, config.requests)
    lanes = {model.served[0]: model.name for model in configured(config) if model.served}

    def resolve(name: str | None) -> str:
        if name is None or models is None:
            return ""
        answering = models.answering(name) or ""
        return lanes.get(answering, answering)  # an adapter's lane has its name

    model_fault = models.accepts if models else lambda name: None
    slugs = named.slugs({name: lanes.get(answers, answers) for name, answers in models.meant.items()}) if models else {}
    return Rules(config.inbox, config.results.keep_free, model_fault, resolve, refusal, slugs)


def models_of(config: Config) -> Models | None:
    """Return the names under which requests may ask for what is served; None where no model has one."""
    models = [model for model in configured(config) if model.served]
    if not models:
        return None
    served = [model.served[0] for model in models]
    itself = {name: model.served[0] for model in models for name in (model.name, *model.served[1:], *model.aliases)}
    adapters = frozenset(adapter for model in models for adapter in model.adapters)
    aliases = {name: itself.get(meant, meant) for name, meant in config.models.aliases.items()} | itself
    asked = config.models
    return Models(served[0], aliases, asked.translate_ollama, adapters, tuple(served[1:]), asked.allow_any)


@dataclass(slots=True)
class _Splitter:
    """Cuts blocks into lines, the same ones however the blocks are cut; holds at most one line of `limit` bytes."""

    limit: int
    offset: int = 0  # of the line that is being collected
    number: int = 0  # of lines that have ended
    pieces: list[bytes] = field(default_factory=list)
    held: int = 0  # bytes in `pieces`
    skipped: int = 0  # bytes of an overlong line already let go

    def feed(self, block: bytes) -> Iterator[tuple[int, int, bytes | None]]:
        """Yield (offset, line number, line or None where it is too long) for every line that ends in `block`."""
        lines = block.split(b"\n")
        rest = lines.pop()
        if lines:
            lines[0] = self._collected(lines[0])
        for line in lines:
            yield self._end(line)
            self.offset += self.skipped + len(line) + 1
            self.skipped = 0
        self._hold(rest)

    def finish(self) -> Iterator[tuple[int, int, bytes | None]]:
        if self.held or self.skipped:
            yield self._end(self._collected(b""))

    def _hold(self, piece: bytes) -> None:
        self.pieces.append(piece)
        self.held += len(piece)
        if self.skipped or self.held > self.limit + len(BOM_UTF8):
            self.skipped += self.held
            self._collected(b"")

    def _collected(self, last: bytes) -> bytes:
        line = b"".join([*self.pieces, last])
        self.pieces, self.held = [], 0
        return line

    def _end(self, line: bytes) -> tuple[int, int, bytes | None]:
        self.number += 1
        offset = self.offset
        if self.number == 1 and line.startswith(BOM_UTF8):
            line, offset = line[len(BOM_UTF8) :], len(BOM_UTF8)
        too_long = self.skipped or len(line) > self.limit
        return offset, self.number, None if too_long else line


class Reading:
    """The pass over one file, fed block by block.

    Args:
        reread: gives back the line at an offset, which is over before another one; to settle what is repeated.
        name: of the file, for messages; it may say which model answers.

    Attributes:
        named: by which slug the file's name says which model answers; "": each line does.
        urls: that requests ask for.
        models: that are to answer, and their numbers in the index.
        faults: how many there are.
    """

    def __init__(self, rules: Rules, reread: Callable[[int, int], bytes], name: str) -> None:
        self.named = named.said_by(name, rules.slugs) or ""
        self.index = Index()
        self.urls: set[str] = set()
        self.models: dict[str, int] = {}
        self.faults = 0
        self._ignored = Ignored()
        self._rules = rules.of_model(self.named) if self.named else rules
        self._line = partial(_line_at, self.index, reread)
        self._id = lru_cache(_IDS_KNOWN)(partial(_id_at, self._line))
        self._name = name
        self._ids = Repeats()
        self._prefixes = order.Prefixes()
        self._requests = Repeats()
        self._splitter = _Splitter(rules.inbox.max_line_bytes)

    @property
    def held(self) -> int:
        """Bytes of a line whose end has not come yet."""
        return self._splitter.held

    def feed(self, block: bytes) -> Iterator[Found | None]:
        """Yield the fault, or None, of every line that ends in this block.

        Raises:
            Rejected: the file has too many lines.
        """
        return self._checked(self._splitter.feed(block))

    def finish(self) -> Iterator[Found | None]:
        """The same for a last line that no newline ends."""
        return self._checked(self._splitter.finish())

    def warnings(self) -> list[str]:
        """Return what is no fault and not what was meant either, a sentence each."""
        doubt = named.doubt(self._name, self._rules.slugs)
        return [*([doubt] if doubt else []), *self._ignored.sentences()]

    def _checked(self, lines: Iterator[tuple[int, int, bytes | None]]) -> Iterator[Found | None]:
        most = self._rules.inbox.max_lines
        for offset, number, line in lines:
            if number > most:
                sentence = f"{self._name}: has more than {most:,} lines; the setting inbox.max_lines allows more"
                raise Rejected("too_many_lines", sentence)
            yield None if line is not None and (not line or line.isspace()) else self._check(offset, number, line)

    def _check(self, offset: int, number: int, line: bytes | None) -> Found | None:
        place = len(self.index)
        self.index.add(offset, number)
        rules = self._rules
        if line is None:
            read = Line(None, too_long(rules.inbox.max_line_bytes))
        else:
            read = read_line(line, rules.model_fault, rules.refusal)
            if read.url:
                self.urls.add(read.url)
        custom_id, fault = read.custom_id, read.fault
        earlier = self._ids.add(place, custom_id)
        if earlier is not None and custom_id is not None and fault is None and self._id(earlier) == custom_id:
            fault = repeated(custom_id, self.index.numbers[earlier])
        if fault is None and line is not None and read.body is not None:
            if read.url:
                self._ignored.note(read.url, read.body)
            which = self._number_of(rules.resolve(read.body.get("model")))
            if which is None:
                fault = Fault("model_mismatch", _TOO_MANY, param="body.model", custom_id=custom_id)
            elif which:
                self.index.is_for(place, which)
            if fault is None:
                self._look_for_twin(place, line, read)
        if self._rules.inbox.group_prefixes:
            self._prefixes.add(read.body if fault is None else None)
        if fault is None:
            return None
        self.faults += 1
        return place, number, fault

    def _number_of(self, model: str) -> int | None:
        """Return the number of a model in the index; None where that has no room for one more."""
        if model not in self.models and len(self.models) >= MOST_MODELS:
            return None
        return self.models.setdefault(model, len(self.models))

    def arrange(self) -> Generator[None, None, None]:
        """After the last line: work out in which order the requests are best computed."""
        if self._rules.inbox.group_prefixes:
            self.index.order = yield from self._prefixes.arranged(self._leading)

    def _leading(self, place: int) -> bytes:
        request = read_line(self._line(place), lambda model: None, lambda url, body: None)
        return order.leading(request.body) if request.body is not None else b""

    def _look_for_twin(self, place: int, line: bytes, read: Line) -> None:
        if not self._rules.inbox.share_answers or read.custom_id is None or read.body is None or read.url is None:
            return
        if not is_deterministic(read.url, read.body):
            return
        rest = but_for_its_id(line.rstrip(), read.custom_id)
        first = self._requests.add(place, rest)
        if first is not None:
            earlier = self._line(first)
            if but_for_its_id(earlier, orjson.loads(earlier)["custom_id"]) == rest:
                self.index.join(first, place)


def _line_at(index: Index, reread: Callable[[int, int], bytes], place: int) -> bytes:
    return reread(index.offsets[place], index.end(place, sys.maxsize))


def _id_at(line: Callable[[int], bytes], place: int) -> Any:
    return orjson.loads(line(place))["custom_id"]
