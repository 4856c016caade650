"""Webhooks that are not delivered yet: a file each in SPOOL/web/hooks. Sends nothing."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import Spool
from inbox_daemon.spool import files, folders
from inbox_daemon.text import dumps
from inbox_daemon.weblayout import WebFolder

_ID = re.compile(r"\w[\w-]{0,99}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Hook:
    """One event to be told of.

    Attributes:
        id: of the event. By it a receiver knows what it was told before; it is made of the batch's id, so that an event
            that is noted twice is one.
        type: such as ``batch.completed``.
        created_at, due_at: Unix seconds; it is not tried before `due_at`.
        tries: how often it was tried.
    """

    id: str
    type: str
    batch: str
    created_at: float
    due_at: float
    tries: int = 0


def put(spool: Spool, hook: Hook) -> None:
    """Note an event durably, or that it is to be tried again. Raises OSError, NotDurable."""
    path = _path(spool, hook.id)
    files.write_whole(path, dumps(asdict(hook)))
    files.sync_dir(path.parent)


def put_off(spool: Spool, hook: Hook, due_at: float) -> Hook:
    """Note that an event was tried in vain, and when it is to be tried again. Raises OSError, NotDurable."""
    later = replace(hook, due_at=due_at, tries=hook.tries + 1)
    put(spool, later)
    return later


def waiting(spool: Spool) -> list[Hook]:
    """Return every event that was not delivered, the one that is due first first. Raises OSError."""
    found: list[Hook] = []
    for path in WebFolder(spool.web).hooks.glob("*.json"):
        said: Any = folders.record(path)
        with suppress(TypeError):
            if said is not None and f"{said.get('id')}.json" == path.name:
                found.append(Hook(**said))
    return sorted(found, key=lambda hook: (hook.due_at, hook.id))


def due(spool: Spool, now: float) -> list[Hook]:
    """Return the events that are to be tried now. Raises OSError."""
    return [hook for hook in waiting(spool) if hook.due_at <= now]


def delivered(spool: Spool, id: str) -> None:
    """Forget an event, which was delivered or was tried long enough. A crash before that delivers it twice.

    Raises OSError.
    """
    files.remove(_path(spool, id))


def _path(spool: Spool, id: str) -> Path:
    if not _ID.fullmatch(id):
        raise SpoolError(f"{id!r} is no event's id")
    return WebFolder(spool.web).hooks / f"{id}.json"
