"""What every route is given: the spool that is served, the settings, and where the disposable index lies.

No I/O. Who asks is said by the guard around the application, in the request's state.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from starlette.requests import HTTPConnection

from inbox_daemon.config import Config
from inbox_daemon.layout import Spool


@dataclass(frozen=True, slots=True)
class Site:
    """One spool as the web process serves it.

    Attributes:
        cache: a folder for what can be made again from the spool; it may be emptied at any time.
    """

    spool: Spool
    config: Config
    cache: Path


@dataclass(frozen=True, slots=True)
class Asker:
    """Who sends a request.

    Attributes:
        key: the name of the API key; "" where none are configured.
        all: sees what every key has made, and what was dropped into the inbox without one.
    """

    key: str = ""
    all: bool = True

    def sees(self, owner: str) -> bool:
        """Say whether what the key `owner` made is there for this one; "": made by nobody's."""
        return self.all or (owner != "" and owner == self.key)


def asker(connection: HTTPConnection) -> Asker:
    """Return who sends a request, as the guard found; with no guard around, somebody who sees everything."""
    state = connection.state
    return Asker(getattr(state, "key", ""), getattr(state, "all", True))
