"""What is done to a batch: ending it, holding it, removing what it has left; by a file in the inbox, as users do it.

Who may see a batch may control it.
"""

from __future__ import annotations

import asyncio
import time

from inbox_daemon.records import BatchStatus
from inbox_daemon.spool import drop, submitted
from inbox_daemon.web import live, objects
from inbox_daemon.web.live import Live
from inbox_daemon.web.objects import Facts
from inbox_daemon.web.site import Asker, Site
from inbox_daemon.web.wrong import NO_RETRY, Wrong, no_batch

_GOES_WITHIN = 5.0  # seconds for the daemon to remove what it is told to


def seen_by(known: Live, id: str, who: Asker) -> Facts:
    """Return what is known of a batch that somebody asks for. Raises Wrong where there is none for this one."""
    facts = known.one(id)
    if facts is None or not who.sees(facts.owner):
        raise no_batch(id)
    return facts


def cancelled(site: Site, facts: Facts) -> Facts:
    """Have a batch end; return it as it is told from then on.

    Raises:
        Wrong: it has ended.
        OSError, SpoolError: the disk says no.
    """
    _refuse_ended(facts, "cancel")
    if facts.status == BatchStatus.CANCELLING:
        return facts
    known = live.of(site)
    record = submitted.get(site.spool, facts.id) if facts.said is None else None
    now = time.time()
    if record is not None and submitted.withdraw(site.spool, record):
        known.note(record.id, objects.cancelled_early(now))
        return seen_by(known, record.id, Asker())
    drop.drop_control(site.spool, facts.means, "cancel")
    return known.cancelling(facts, now)


def controlled(site: Site, facts: Facts, verb: str, content: str = "") -> Facts:
    """Drop a control file for a batch that has not ended; return it. Raises as `cancelled`."""
    _refuse_ended(facts, verb)
    drop.drop_control(site.spool, facts.means, verb, content)
    return facts


def _refuse_ended(facts: Facts, verb: str) -> None:
    if facts.ended:
        what = "change the priority of" if verb == "priority" else verb
        raise Wrong(409, f"Cannot {what} a batch with status '{facts.status}'.", headers=NO_RETRY)


async def removed(site: Site, facts: Facts, filename: str) -> None:
    """Have the daemon remove a file of a batch that has ended, or with no name all of it; return once it is gone.

    Nobody else has the right to.

    Raises:
        Wrong: no daemon runs, or it does not do it.
        OSError, SpoolError: the disk says no.
    """
    if not facts.ended:
        said = f"What a batch with status '{facts.status}' has cannot be deleted; cancel it first."
        raise Wrong(409, said, "batch_not_ended", headers=NO_RETRY)
    if not await asyncio.to_thread(live.of(site).daemon_lives):
        said = (
            "What a batch has left is removed by the daemon, and none runs. Start inbox-daemon, or remove it by hand."
        )
        raise Wrong(409, said, "daemon_not_running", headers=NO_RETRY)
    path = site.spool.batch(facts.name).dir / filename
    if not path.exists():
        return
    content = f"{filename}\n" if filename else ""
    dropped = await asyncio.to_thread(drop.drop_control, site.spool, facts.name, "delete", content)
    until = time.monotonic() + _GOES_WITHIN
    while path.exists():
        if time.monotonic() > until:
            await asyncio.to_thread(drop.take_back, dropped)
            raise Wrong(409, "The daemon has not removed it; try again in a moment.", "not_removed", headers=NO_RETRY)
        await asyncio.sleep(0.05)
