"""The batch's place in the outbox: taking a name, and writing what users look at while the batch runs.

Owns the naming rule (a name in use gets the next free NAME.2) and status.json. Nothing is ever overwritten but
status.json, and nothing that the daemon needs later is read from here.
"""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from inbox_daemon.layout import Published, Spool, Work, batch_name
from inbox_daemon.machine import clock
from inbox_daemon.machine.clock import Moment
from inbox_daemon.spool import daemons, files, names, source, views
from inbox_daemon.spool.published import notice_of
from inbox_daemon.spool.shapes import BatchObject
from inbox_daemon.text import dumps, shown


@dataclass(frozen=True, slots=True)
class Origin:
    """The file as users dropped it; noted with the batch's name, because it is removed once it is accepted.

    Attributes:
        source: its name.
        mark: what tells it from every other file of that name (`source.mark`); "" in batches of an earlier version.
        claimed: when it was taken.
    """

    source: str
    mark: str
    claimed: Moment


def origin_of(work: Work) -> Origin:
    with suppress(FileNotFoundError):
        noted = orjson.loads(work.name.read_bytes())
        claimed = Moment(**noted["claimed"]) if "claimed" in noted else Moment(work.claimed_at)  # since 0.3.0
        return Origin(str(noted["source"]), str(noted.get("mark", "")), claimed)
    dropped = next(work.dropped.iterdir())
    return Origin(dropped.name, source.mark(dropped), clock.now())


def open_door(spool: Spool, work: Work, origin: Origin, first_status: Callable[[str], dict[str, object]]) -> Published:
    """Make `outbox/NAME/` appear, with a status in it, and return it; the same one again after any crash.

    The folder is made inside work/ID and renamed into place; a folder with a file in it cannot be renamed over, so a
    name has one owner. The name is noted before the rename: once the folder is gone from work/ID, it is there. Where a
    user has removed it since, another batch may have taken the name; this one then gets the next that is free.
    """
    with suppress(FileNotFoundError):
        published = spool.batch(orjson.loads(work.name.read_bytes())["name"])
        if not work.door.exists() and not is_anothers(published, work):
            return ensure(published)

    def note(name: str) -> dict[str, object]:
        files.write_whole(work.name, dumps({"name": name, **asdict(origin)}))
        return first_status(name)

    return ensure(take_name(spool, origin.source, work.door, note, work.notice))


def take_name(
    spool: Spool, file: str, door: Path, note: Callable[[str], dict[str, object]], gone: Path | None = None
) -> Published:
    """Rename the folder `door`, with a status in it, to the next name in the outbox that is free for a file's batch,
    and return it there.

    Args:
        note: called with the name before it is taken; returns the status that is to lie there.
        gone: where a notice of this very file (`notices`) goes, which then does not take the name away.
    """

    def is_taken(name: str) -> bool:
        return spool.batch(name).dir.exists() and not gives_way(spool.batch(name))

    def gives_way(folder: Published) -> bool:
        return gone is not None and notice_of(folder) == shown(file) and is_empty_but_for(folder.dir, folder.status)

    files.ensure_dir(door)
    while True:
        published = spool.batch(names.free(batch_name(file), is_taken))
        write_status(Published(door), note(published.dir.name))
        try:
            if gone is not None and gives_way(published):
                take_out(published, gone)
            files.move(door, published.dir)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise  # else somebody has taken it, or taken the notice back, this very moment
        else:
            return published


def take_out(notice: Published, to: Path) -> None:
    """Move a notice out of the outbox, in one step: no folder is seen that says nothing. Raises OSError."""
    clear(to)
    files.move(notice.dir, to)
    if notice_of(Published(to)) is None:  # a batch has taken the name this very moment
        files.move(to, notice.dir)


def is_empty_but_for(folder: Path, file: Path) -> bool:
    with suppress(OSError):
        return os.listdir(folder) == [file.name]  # noqa: PTH208
    return False


def clear(folder: Path) -> None:
    """Remove a folder that holds files alone, if it is there. Raises OSError."""
    with suppress(FileNotFoundError):
        for left in folder.iterdir():
            files.remove(left)
        folder.rmdir()


def ensure(published: Published) -> Published:
    """Bring the folder back where a user removed it: results must have somewhere to go."""
    for folder in (published.dir, published.parts):
        if not folder.is_dir():
            with suppress(FileExistsError):
                folder.mkdir(0o755)
                if folder == published.parts:  # who may read the outbox may take parts away, and nothing else
                    with suppress(PermissionError):  # of a file system without modes, its mount says who may
                        folder.chmod(folder.stat().st_mode & 0o777 | 0o020)
    return published


def is_anothers(published: Published, work: Work) -> bool:
    """Say whether this folder, once the batch's own, now belongs to another batch."""
    try:
        return bool(orjson.loads(published.status.read_bytes())["id"] != work.id)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_status(published: Published, status: dict[str, object], *, last: bool = False) -> None:
    """Tell how the batch is. Of one in work that need not outlive a power cut: after one, it is told anew."""
    files.write_whole(published.status, dumps(status) + b"\n")
    if last:
        files.sync_dir(published.dir)


def take_up(spool: Spool, work: Work) -> None:
    """Say in a batch's status that this daemon has it in work now: until its log is read back, all else stays.

    Raises OSError, NotDurable.
    """
    _amend(spool, work, lambda said: {**said, "daemon": daemons.me()})


def rest(spool: Spool, work: Work) -> None:
    """Say in a batch's status, whoever told it last, that no daemon has it in work any more. Raises as `take_up`."""
    _amend(spool, work, at_rest)


def at_rest(said: BatchObject) -> dict[str, Any]:
    """Return what is left of a status when its daemon goes; what the batch needs is needed of the next one, too."""
    return {**views.at_rest(said), "waiting_for_model": said.get("waiting_for_model")}


def _amend(spool: Spool, work: Work, change: Callable[[BatchObject], Any]) -> None:
    """Change what the status of a batch that has not ended says; where there is none, nothing is made."""
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        published = spool.batch(orjson.loads(work.name.read_bytes())["name"])
        said = orjson.loads(published.status.read_bytes())
        if said["id"] == work.id and not views.has_ended(said) and (changed := change(said)) != said:
            write_status(published, changed | {"updated_at": round(time.time(), 1)})


def keep_input(work: Work, published: Published) -> bool:
    """Show the accepted requests beside their answers, as a second name of the batch's own file: that costs nothing
    while the batch is in work, and stays when work goes.

    Returns:
        False where the file system has no hard links: a copy of gigabytes would hold up all batches.
    """
    with suppress(FileExistsError):  # before a crash
        return files.linked(work.input, published.input)
    return True


def write_autopsy(published: Published, text: str) -> str:
    """Write what was found of a hung engine next to the status, and return the file's name."""
    number = next(n for n in itertools.count(1) if not published.autopsy(n).exists())
    files.write_whole(published.autopsy(number), text.encode(errors="replace"))
    return published.autopsy(number).name
