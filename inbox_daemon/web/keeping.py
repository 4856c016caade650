"""How much of uploads is kept, and for how long, as `[web]` says: for files that come whole and for those in parts."""

from __future__ import annotations

from inbox_daemon.config import seconds
from inbox_daemon.spool import store
from inbox_daemon.web.site import Site
from inbox_daemon.web.wrong import NO_RETRY, Wrong


def refuse_too_much(site: Site) -> None:
    """Raise Wrong where uploads have more bytes than they may have together."""
    most = site.config.web.max_stored_bytes
    if most and store.stored_bytes(site.spool) > most:
        said = f"All uploads together would have more than {most:,} bytes (web.max_stored_bytes); delete some of them."
        raise Wrong(507, said, "storage_full", type="server_error", headers=NO_RETRY)


def kept_until(site: Site, after: int | None, now: float) -> int | None:
    """Return when an upload goes, in Unix seconds; None: it stays.

    Args:
        after: seconds that its client wants; None: what `web.keep_files` says.
    """
    kept_for = after if after is not None else seconds(site.config.web.keep_files)
    return int(now + kept_for) if kept_for else None
