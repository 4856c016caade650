"""What other daemons of this spool have: which work is theirs because only they have its model.

Reads what they say of themselves in SPOOL/daemons. Takes nothing, and judges nothing of their health but that they
have spoken lately.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from inbox_daemon.errors import Rejected
from inbox_daemon.layout import Spool, Work
from inbox_daemon.request.catalog import Models
from inbox_daemon.request.named import said_by
from inbox_daemon.request.reading import models_of
from inbox_daemon.settings import Settings
from inbox_daemon.spool import ingest, published, source
from inbox_daemon.spool.daemons import identity
from inbox_daemon.spool.history import History
from inbox_daemon.spool.publish import is_decided
from inbox_daemon.spool.shapes import DaemonView
from inbox_daemon.spool.views import called

_ASK_EVERY = 1.0  # seconds; each of them speaks once a second


class Asked(NamedTuple):
    """A model, as a file asks for it.

    Attributes:
        by_name: it is a slug that the file's own name says (`request.named`), and none that a request names.
    """

    model: str
    by_name: bool = False


class Elsewhere:
    """The other daemons, as far as it matters who has which model."""

    def __init__(self, spool: Spool, settings: Settings) -> None:
        self._spool, self._settings = spool, settings
        self._asked_at = float("-inf")
        self._known: list[tuple[DaemonView, Models]] = []
        self._ours = (settings.now, models_of(settings.now))  # of which settings, and what they serve

    def ours(self) -> dict[str, Any]:
        """Return what the others are to know of us: under which names requests may ask for a model here."""
        models = self._served()
        known = [models.served, *models.others, *models.aliases, *sorted(models.adapters)] if models else []
        return {"models": known, "translate_ollama": self._settings.now.models.translate_ollama}

    def lacking(self, path: Path) -> Asked | None:
        """Return which model a file asks for where it is none of ours; None where it is to be taken.

        What its name says comes before what its first request names, where somebody has a model that is called so.
        """
        if (models := self._served()) is None or said_by(path.name, models.slugs):
            return None
        for _, theirs in self._others():
            if slug := said_by(path.name, theirs.slugs):
                return Asked(slug, by_name=True)
        if (name := _first_model(path)) is None or models.lists(name):
            return None
        asked = Asked(name)
        ours = models.accepts(name) is None and not self.serving(asked)  # allow_any: what nobody lists
        return None if ours else asked

    def serving(self, asked: Asked) -> str | None:
        """Return which daemon has a model that is asked for."""
        for other, theirs in self._others():
            if asked.model in theirs.slugs if asked.by_name else theirs.accepts(asked.model) is None:
                return called(other)
        return None

    def has_engine_for(self, work: Work) -> str | None:
        """Return which daemon a batch in work is to be left to: it has a model of it, and we have none."""
        if not self._others():
            return None
        if is_decided(work):  # whoever has it publishes it, and needs no engine for that
            return None
        with suppress(OSError, ValueError, TypeError, KeyError):
            if not work.accepted.exists():
                asked = self.lacking(next(work.dropped.iterdir()))
                return self.serving(asked) if asked else None
            models = {model or History(work).model for model in ingest.load(work).models}
            if not models or any(map(self._settings.serves, models)):
                return None
            for other, _ in self._others():
                if models & set(other.get("models", ())):
                    return called(other)
        return None

    def _served(self) -> Models | None:
        """Return the names under which requests may ask here; made once of the settings, since each file is asked."""
        if self._ours[0] is not self._settings.now:
            self._ours = (self._settings.now, models_of(self._settings.now))
        return self._ours[1]

    def _others(self) -> list[tuple[DaemonView, Models]]:
        now = time.monotonic()
        if now - self._asked_at >= _ASK_EVERY:
            self._asked_at = now
            self._known = [(one, _models_of(one)) for one in self._alive()]
        return self._known

    def _alive(self) -> Iterator[DaemonView]:
        for one in published.daemons(self._spool):
            if one["alive"] and one.get("id") != identity():
                yield one


def _models_of(other: DaemonView) -> Models:
    first, *others = other.get("models") or [""]
    aliases = dict.fromkeys(others, first)  # of whichever model of its own
    return Models(first, aliases, other.get("translate_ollama", False), others=tuple(others))


def _first_model(path: Path) -> str | None:
    """Return the model that the first request of a file names; None where it names none, or nobody can tell yet."""
    with suppress(Rejected, OSError, ValueError, TypeError, KeyError):
        fd = source.open_regular(path)
        try:
            block = next(source.blocks(fd, path, 1 << 40), b"").lstrip()
        finally:
            os.close(fd)
        name = orjson.loads(block.partition(b"\n")[0])["body"].get("model")
        return name if isinstance(name, str) else None
    return None
