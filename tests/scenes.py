"""Where a run that is struck starts: a spool as it lies before it. No test lives here."""

from __future__ import annotations

import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from aftermath import MIXED, Scene, come_after, copy, scene
from crashing import Strike, run
from running import batch_of


def dropped(start: Path) -> Scene:
    return scene(start)


def refused(start: Path) -> Scene:
    return scene(start, status="failed", strict=True)


def rejected(start: Path) -> Scene:
    return scene(start, b"this is no gzip", status="failed", dropped="b.jsonl.gz")


def cancelled(start: Path) -> Scene:
    return half_done(start, "cancel", "cancelled")


def resumed(start: Path) -> Scene:
    return half_done(start, "resume", "completed")


def recalled(start: Path) -> Scene:
    """Nothing has happened yet; in the run to come, the batch is cancelled while two engines have its requests."""
    return scene(start, status="cancelled", recalled=True)


def resent(start: Path) -> Scene:
    """Leave the batch done, and its file in the inbox once more."""
    made = scene(start, resent=True)
    assert run(start / "spool", made.settings).status == 3
    shutil.copyfile(made.original, start / "spool" / "inbox" / made.dropped)
    return made


def resent_at_work(start: Path) -> Scene:
    """Leave the batch half done and paused, with a word to go on, and its file in the inbox once more."""
    made = replace(half_done(start, "resume", "completed"), resent=True)
    shutil.copyfile(made.original, start / "spool" / "inbox" / made.dropped)
    return made


def for_two_models(start: Path) -> Scene:
    """Nothing has happened yet; in the run to come, two models take turns."""
    return scene(start, MIXED, two_models=True)


def stood(start: Path) -> Scene:
    """Leave a notice in the outbox of the file, which was half there; now all of it is."""
    made = scene(start)
    inbox = start / "spool" / "inbox" / made.dropped
    inbox.write_bytes(made.original.read_bytes()[:-5])
    assert run(start / "spool", made.settings).status == 1
    assert b"not_taken" in (start / "spool" / "outbox" / "b" / "status.json").read_bytes()
    shutil.copyfile(made.original, inbox)
    return made


def stopped(start: Path) -> Scene:
    """Nothing has happened yet; in the run to come, SIGTERM arrives when some lines wait in the open part."""
    made = scene(start)
    return replace(made, stop_at=second_part(made))


def half_done(start: Path, verb: str, status: str) -> Scene:
    """Leave a paused batch with one part sealed and half a line in the next, and a control file in the inbox."""
    made = scene(start, status=status)
    assert run(start / "spool", made.settings, Strike(second_part(made), half=True)).killed
    [work] = (start / "spool" / "work").iterdir()
    (work / "pause").touch()
    (start / "spool" / "inbox" / f"b.{verb}").touch()
    return made


def name_in_use(start: Path, ended: bool, *names: str) -> Scene:
    """Leave the batch done, or half done, and drop a second file of its name and control files, one after the other."""
    made = scene(start)
    inbox = start / "spool" / "inbox"
    ran = run(start / "spool", made.settings, None if ended else Strike(second_part(made), half=True))
    assert ran.killed is not ended
    last: Path | None = None
    for name in names:
        (inbox / name).write_bytes(batch_of(3, "second") if name == made.dropped else b"7")
        if last:
            come_after(last, inbox / name)
        last = inbox / name
    return made


def second_part(made: Scene) -> int:
    """Return the number of the operation that first writes to the second part."""
    copy(made.start / "spool", made.start / "unharmed")
    operations = run(made.start / "unharmed", made.settings).operations
    sealed = next(n for n, what in enumerate(operations, 1) if what.startswith("link "))
    return next(n for n, what in enumerate(operations, 1) if n > sealed and what == "write work/ID/open.jsonl")


def unharmed(pool: ProcessPoolExecutor, scene: Scene, spool: Path) -> list[str]:
    """Return the operations of a run that nothing happens to."""
    copy(scene.start / "spool", spool)
    return pool.submit(run, spool, scene.settings, stop_at=scene.stop_at, **scene.happens).result().operations
