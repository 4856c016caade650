"""What goes on beside the requests: batches' ends are noted, webhooks delivered, outputs removed whose time is over.

Everything that is to be done can be seen from the disk, so it goes on after a restart where it was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette

from inbox_daemon.errors import InboxDaemonError, told
from inbox_daemon.layout import Spool
from inbox_daemon.spool import drop, hooks, submitted
from inbox_daemon.spool.hooks import Hook
from inbox_daemon.web import ids, live, webhook
from inbox_daemon.web.site import Site

log = logging.getLogger(__name__)

_EVERY = 1.0  # seconds
_EXPIRE_EVERY = 60.0  # seconds
_FIRST_WAIT, _LONGEST_WAIT, _GIVE_UP_AFTER = 5.0, 3600.0, 72 * 3600.0  # seconds
_OUTPUTS = (ids.RESULTS, ids.ERRORS)


def beside(site: Site) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """Return what the application has run beside itself. Raises ConfigError where the webhooks' key cannot be read."""
    path = site.config.web.webhook_secret_file
    key = webhook.secret(Path(path)) if path else None

    @asynccontextmanager
    async def running(_: Starlette) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(_each(_EVERY, note_ends, site)),
            asyncio.create_task(_each(_EXPIRE_EVERY, expire, site)),
        ]
        if site.config.web.webhook_url:
            tasks.append(asyncio.create_task(_each(_EVERY, deliver, site, key)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return running


async def _each(seconds: float, work: Callable[..., None], *given: object) -> None:
    """Do something again and again, in a thread; what fails is said once, and tried again."""
    said = ""
    while True:
        try:
            await asyncio.to_thread(work, *given, time.time())
            said = ""
        except (InboxDaemonError, OSError) as error:
            if (why := told(error)) != said:
                log.error("web: %s; trying again", why)
            said = why
        await asyncio.sleep(seconds)


def note_ends(site: Site, now: float) -> None:
    """Look at each batch made by API that had not ended: who looks notes its end. Raises OSError, SpoolError."""
    known = live.of(site)
    for made in known.unseen():
        known.one(made.id)


def deliver(site: Site, key: bytes | None, now: float) -> None:
    """Send the webhooks that are due. Raises OSError, SpoolError."""
    for hook in hooks.due(site.spool, now):
        said = webhook.event(hook.id, hook.batch, hook.type, hook.created_at)
        why = webhook.refused(site.config.web.webhook_url, said, key)
        if why is None:
            hooks.delivered(site.spool, hook.id)
        elif now - hook.created_at > _GIVE_UP_AFTER:
            log.error("web: webhook of %s given up after %d h: %s", hook.batch, _GIVE_UP_AFTER // 3600, why)
            hooks.delivered(site.spool, hook.id)
        else:
            _put_off(site.spool, hook, why)


def _put_off(spool: Spool, hook: Hook, why: str) -> None:
    wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(hook.tries, 20))
    hooks.put_off(spool, hook, time.time() + wait)
    if hook.tries == 0:
        log.warning("web: webhook of %s not taken: %s; tried again for %d h", hook.batch, why, _GIVE_UP_AFTER // 3600)


def expire(site: Site, now: float) -> None:
    """Have the daemon remove outputs whose time is over (`output_expires_after`). Raises OSError, SpoolError."""
    known = live.of(site)
    for made in submitted.all_of(site.spool):
        facts = known.one(made.id) if made.output_expires_after is not None else None
        if facts is None or facts.ended_at is None or made.output_expires_after is None:
            continue
        there = [lying.filename for kind, lying in facts.lying.items() if kind in _OUTPUTS]
        if there and facts.ended_at + made.output_expires_after <= now:
            drop.drop_control(site.spool, facts.name, "delete", "".join(f"{name}\n" for name in there))
