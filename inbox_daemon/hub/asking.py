"""Asks for models: a folder here and now, the hub and its cache in a child, which has only so much time.

The library that asks takes its time to import, keeps connections, and may hang where a network does: the child has all
that, and the daemon's loop never waits for one.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from inbox_daemon.config import names
from inbox_daemon.hub import contents
from inbox_daemon.hub.answers import Had, Seen

_CHILD = (sys.executable, "-P", "-W", "ignore", "-m", "inbox_daemon.hub.child")
_WITHIN = 30.0  # seconds for each model
_BEGUN_WITHIN = 15.0  # for the child, on a cold disk


class Asked(NamedTuple):
    """A model, or an adapter, as the settings name it."""

    model: str
    revision: str | None = None


def parts_of(model: str, arguments: Mapping[str, Any]) -> list[Asked]:
    """Return what is loaded with a model: itself, then its adapters.

    Args:
        arguments: vLLM's, as `[engine.args]` has them.
    """
    adapters = [names.folder_of(module) for module in names.modules(arguments)]
    return [Asked(model, arguments.get("revision")), *(Asked(folder) for folder in adapters if folder)]


def look(asked: Sequence[Asked], *, network: bool = True) -> list[Seen]:
    """Return what is known of each.

    Args:
        network: whether the hub may be asked for what is not on this host.

    Raises:
        OSError: a folder may not be read, or is not there.
    """
    told = iter(_of_child([one for one in asked if not contents.is_path(one.model)], network))
    return [contents.seen(Path(one.model)) if contents.is_path(one.model) else next(told) for one in asked]


def pull(asked: Asked) -> subprocess.Popen[bytes]:
    """Start fetching a model into the cache; `pulled` has what became of it."""
    child = subprocess.Popen(_CHILD, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write(_question("pull", [asked]))
    child.stdin.close()
    child.stdin = None
    return child


def pulled(child: subprocess.Popen[bytes]) -> Seen:
    """Wait for a child of `pull` and return what became of it."""
    said, words = child.communicate()
    return _understood(said, words, 1)[0]


def _of_child(asked: Sequence[Asked], network: bool) -> list[Seen]:
    if not asked:
        return []
    question = _question("look" if network else "look here", asked)
    within = _BEGUN_WITHIN + _WITHIN * len(asked)
    try:
        child = subprocess.run(_CHILD, input=question, capture_output=True, timeout=within, check=False)
    except subprocess.TimeoutExpired:
        return [Seen(Had.UNREACHABLE, f"nothing within {within:.0f} s")] * len(asked)
    return _understood(child.stdout, child.stderr, len(asked))


def _question(do: str, asked: Sequence[Asked]) -> bytes:
    return orjson.dumps({"do": do, "asked": [one._asdict() for one in asked]})


def _understood(said: bytes, words: bytes, count: int) -> list[Seen]:
    try:
        answers: list[dict[str, Any]] = orjson.loads(said.rstrip().rpartition(b"\n")[2])
    except ValueError:
        last = words.decode(errors="replace").strip().rpartition("\n")[2]
        return [Seen(Had.UNREACHABLE, last or "the one that asks has died")] * count
    return [Seen(**{**one, "had": Had(one["had"])}) for one in answers]
