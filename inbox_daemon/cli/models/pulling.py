"""`inbox-daemon models pull`: what a model is loaded from, fetched into the cache before anybody waits for it.

The child of `hub/asking` fetches; here its progress is seen by how its folder in the cache grows.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from inbox_daemon.cli import show
from inbox_daemon.hub import asking, contents
from inbox_daemon.hub.answers import Had, Seen
from inbox_daemon.hub.asking import Asked
from inbox_daemon.machine import disk

_LOOKED_AT_EVERY = 0.5  # seconds
_SPARE = 1 << 30  # bytes that are to stay free


def pull(parts: Sequence[Asked], *, dry_run: bool) -> int:
    """Fetch models and adapters, those that can be had, one after another; return the exit status."""
    well = True
    for asked in parts:
        if contents.is_path(asked.model):
            show.say(f"{asked.model}: a folder of this host, nothing to fetch")
            continue
        seen = asking.look([asked])[0]
        if seen.had is Had.CACHED:
            show.say(f"{asked.model}: all of it is here, {seen.folder}")
        elif not seen.good:
            show.say(seen.sentence(asked.model), show.errors)
            well = False
        else:
            well &= _fetch(asked, seen, dry_run)
    return 0 if well else 1


def _fetch(asked: Asked, seen: Seen, dry_run: bool) -> bool:
    store = Path(seen.store)
    whole = sum(seen.files.values())
    part = "" if seen.to_fetch == whole else f" of {show.size(whole)}"
    show.say(f"{asked.model}: {len(seen.files)} files, {show.size(seen.to_fetch)}{part} to fetch into {store}")
    lies = next(folder for folder in store.parents if folder.exists())
    free = disk.use(lies)[1]
    if lacking := disk.lacking(lies, seen.to_fetch + _SPARE):
        room = f"{show.size(free)} are free there, and {show.size(_SPARE)} are to stay so"
        show.say(f"{asked.model}: no room: {room}; make room for {show.size(lacking)} more", show.errors)
        return False
    if dry_run:
        show.say(f"{asked.model}: there is room for it, {show.size(free)} are free")
        return True
    with asking.pull(asked) as child:
        try:
            _follow(child, asked.model, seen.to_fetch, store / "blobs")
            became = asking.pulled(child)
        finally:
            child.kill()
    where = f", {became.folder}" if became.good else ""
    show.say(f"{became.sentence(asked.model)}{where}", show.console if became.good else show.errors)
    return became.good


def _follow(child: subprocess.Popen[bytes], model: str, to_fetch: int, blobs: Path) -> None:
    """Tell how far it is until the child ends: a bar on a terminal, a line each 10 % elsewhere."""
    before = _size(blobs)
    with (_bar if show.somebody_looks() else _lines)(model, max(1, to_fetch)) as tell:
        while True:
            with suppress(subprocess.TimeoutExpired):
                child.wait(_LOOKED_AT_EVERY)
            tell(min(to_fetch, _size(blobs) - before))
            if child.returncode is not None:
                return


def _size(blobs: Path) -> int:
    """Return the bytes that lie there, of files that are not whole yet, too."""
    total = 0
    with suppress(FileNotFoundError), os.scandir(blobs) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                there = entry.stat()
                total += min(there.st_size, there.st_blocks * 512)  # what was only made room for has not come
    return total


@contextmanager
def _bar(model: str, to_fetch: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=show.console) as progress:
        task = progress.add_task(model, total=to_fetch)
        yield lambda done: progress.update(task, completed=done)


@contextmanager
def _lines(model: str, to_fetch: int) -> Iterator[Callable[[int], None]]:
    said = 0

    def tell(done: int) -> None:
        nonlocal said
        if (tenths := done * 10 // to_fetch) > said:
            said = tenths
            show.say(f"{model}: {tenths * 10} %, {show.size(done)}")

    yield tell
