"""A client of the web process's part of the spool that does one thing after another, and goes on where it was after a
crash: what it was told of is done, what it was not it asks for again. No test lives here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from aftermath import SETTINGS, Finding, Sabotage
from crashing import Ended, Strike, perform, run
from running import jsonl, request

from inbox_daemon.errors import InboxDaemonError
from inbox_daemon.layout import Published, Spool
from inbox_daemon.spool import hooks, joined, marks, parted, published, store, submitted
from inbox_daemon.spool.hooks import Hook
from inbox_daemon.spool.marks import Mark
from inbox_daemon.spool.submitted import Asked, Submitted
from inbox_daemon.weblayout import InParts, Submission, WebFolder

NOW = 1_800_000_000.0
CONTENT = jsonl([request("r1", "say"), request("r2", "say more")])
OTHERS = jsonl([request("r3", "of a file that is not the web's")])
MARK = Mark("r1", "b", "good", "", NOW, None, "said")
HOOK = Hook("evt_batch_1", "batch.completed", "batch_1", NOW, NOW)
Told = dict[str, Any]


# -- what it does


def _upload(spool: Spool, told: Told, expires_at: int | None = None) -> str:
    with store.begin(spool, ".jsonl") as upload:
        for at in range(0, len(CONTENT), 100):
            upload.write(CONTENT[at : at + 100])
        return upload.keep("b.jsonl", "batch", expires_at, "", NOW).id


def _create(spool: Spool, told: Told, key: str, priority: int | None = None) -> str:
    asked = Asked(input_file_id=told["upload"], endpoint="", completion_window="24h", priority=priority)
    return submitted.create(spool, store.content(spool, told["upload"]), "b.jsonl", asked, key, NOW).id


def _begin(spool: Spool, told: Told) -> str:
    return parted.begin_parts(spool, "b.jsonl", len(CONTENT), "batch", "", "", NOW).id


def _part(spool: Spool, told: Told, begun: str, at: int, end: int) -> str:
    with parted.append(spool, told[begun]) as coming:
        for piece in (CONTENT[at : (at + end) // 2], CONTENT[(at + end) // 2 : end]):
            coming.write(piece)
        return coming.keep(NOW).id


def _complete(spool: Spool, told: Told) -> str:
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    return joined.complete(spool, told["begun"], [told["part"], told["next part"]], md5, NOW).id


def _cancel(spool: Spool, told: Told) -> bool:
    return parted.cancel(spool, told["another"]) is not None


def _resubmit(spool: Spool, told: Told) -> str:
    asked = Asked(input_file_id="file-x-retry", endpoint="", completion_window="24h")
    return submitted.create(spool, spool.root.with_name("others.jsonl"), "others", asked, "others", NOW).id


def _withdraw(spool: Spool, told: Told) -> bool:
    batch = submitted.get(spool, told["third"])
    assert batch
    return submitted.withdraw(spool, batch)


DOES: dict[str, Callable[[Spool, Told], Any]] = {
    "upload": _upload,
    "create": partial(_create, key="first", priority=3),
    "others": _resubmit,
    "third": partial(_create, key="third"),
    "withdraw": _withdraw,
    "short": partial(_upload, expires_at=int(NOW)),
    "expire": lambda spool, told: store.expire(spool, NOW + 1),
    "delete": lambda spool, told: store.delete(spool, told["upload"]),
    "begun": _begin,
    "part": partial(_part, begun="begun", at=0, end=100),
    "next part": partial(_part, begun="begun", at=100, end=len(CONTENT)),
    "complete": _complete,
    "another": _begin,
    "a part": partial(_part, begun="another", at=0, end=50),
    "cancel": _cancel,
    "mark": lambda spool, told: marks.add(spool, "mine", MARK),
    "hook": lambda spool, told: hooks.put(spool, HOOK),
    "hooked": lambda spool, told: hooks.delivered(spool, HOOK.id),
}
PARTS = {"begun": ("part", "next part"), "another": ("a part",)}
CREATIONS = {"create": "first", "others": "others", "third": "third"}


def play(root: Path, steps: Sequence[str], patience: int) -> int:
    """Start as the web process does, then do what was not acknowledged yet.

    Args:
        patience: how often a step that fails is tried, and the start.
    """
    spool, acknowledged = Spool(root), root.with_name("acknowledged")
    (root / "inbox").mkdir(exist_ok=True)
    with acknowledged.open("ab", buffering=0) as ledger:
        told = acknowledged_in(root)
        _tried(lambda: (store.recover(spool), submitted.recover(spool)), patience)
        for step in steps:
            if step not in told:
                told[step] = _tried(partial(DOES[step], spool, told), patience)
                ledger.write(orjson.dumps({step: told[step]}) + b"\n")
    if patience > 1:
        _tried(lambda: (store.recover(spool), submitted.recover(spool)), patience)
    return 0


def _tried(act: Callable[[], Any], times: int) -> Any:
    for left in range(times - 1, -1, -1):
        try:
            return act()
        except (OSError, InboxDaemonError) as error:
            print(error)
            if not left:
                raise
    raise AssertionError


def acknowledged_in(root: Path) -> Told:
    told: Told = {}
    with suppress(FileNotFoundError):
        for line in root.with_name("acknowledged").read_bytes().splitlines():
            told |= orjson.loads(line)
    return told


def new_spool(place: Path) -> Path:
    """Make a spool that the web process has not seen, with a file beside it that is not its own; return the spool."""
    (place / "spool" / "inbox").mkdir(parents=True)
    (place / "others.jsonl").write_bytes(OTHERS)
    return place / "spool"


def played(
    root: Path, steps: Sequence[str], strike: Strike | None = None, sabotage: Sabotage = None, patience: int = 1
) -> Ended:
    return perform(root, partial(play, root, steps, patience), strike, sabotage)


def drained(root: Path) -> Ended:
    """Have the daemon take what lies in the inbox, and answer it."""
    rest = {"in_flight": 2, "engines": 1, "rate": 0, "model": "", "strict": "false"}
    return run(root, SETTINGS.format(**rest))


# -- what must be so at any moment


def wrong_now(root: Path, steps: Sequence[str]) -> list[str]:
    """Say what is half there, twice there, or not there though it was acknowledged."""
    spool, told = Spool(root), acknowledged_in(root)
    problems = []
    for folder in [folder for folder in _named_folders(spool.files) if folder.name.startswith("upload_")]:
        parts = parted.parts_of(InParts(folder))
        if parted.get(spool, folder.name) is None or parted._end(parts) > InParts(folder).content.stat().st_size:
            problems.append(f"half an upload in parts: {folder}")
    for folder in [folder for folder in _named_folders(spool.files) if folder.name.startswith("file-")]:
        stored = store.get(spool, folder.name)
        if stored is None or _hash(store.content(spool, stored.id)) != stored.sha256:
            problems.append(f"half an upload under its name: {folder}")
    batches: list[Submitted] = []
    for folder in _named_folders(WebFolder(spool.web).batches):
        batch = submitted.get(spool, folder.name)
        if batch is None:
            problems.append(f"half a batch under its name: {folder}")
        else:
            batches.append(batch)
            problems += _wrong_with(spool, batch)
    for file in spool.inbox.glob("[!.]*.jsonl"):
        if file.name not in {batch.file for batch in batches}:
            problems.append(f"in the inbox, and nobody's: {file.name}")
    keys = [batch.idempotency for batch in batches]
    if len(keys) != len(set(keys)):
        problems.append("one creation is two batches")
    under_way = next((step for step in steps if step not in told), "")
    return problems + _lost(spool, told, under_way, {batch.id: batch for batch in batches})


def _wrong_with(spool: Spool, batch: Submitted) -> list[str]:
    """A batch's file is in one place, whole, and so is what lies beside it."""
    folder = Submission(WebFolder(spool.web).batches / batch.id)
    places = {"pending": folder.pending, "inbox": spool.inbox / batch.file, "withdrawn": folder.withdrawn}
    there = [place for place, path in places.items() if path.exists()]
    there += ["taken"] if _is_taken(spool, batch) else []
    problems = [] if len(there) == 1 else [f"{batch.name} is in {there}"]
    for place in ("pending", "inbox"):
        if place in there and _hash(places[place]) != batch.sha256:
            problems.append(f"{batch.name}: half of it in {place}")
    sidecar = spool.inbox / f"{batch.file}.sha256"
    if sidecar.exists() and sidecar.read_text() != f"{batch.sha256}  {batch.file}\n":
        problems.append(f"{batch.name}: half a sidecar")
    return problems


def _is_taken(spool: Spool, batch: Submitted) -> bool:
    folder = Published(spool.outbox / batch.name)
    return (folder.dir.exists() and not published.is_notice(folder)) or any(spool.work.glob(f"*/dropped/{batch.file}"))


def _lost(spool: Spool, told: Told, under_way: str, batches: dict[str, Submitted]) -> list[str]:
    problems = []
    for step, over in (("upload", "delete"), ("short", "expire")):
        kept = step in told and store.get(spool, told[step]) is not None
        if step in told and not kept and over not in (*told, under_way):
            problems.append(f"{step}: acknowledged and not there")
        if over in told and kept:
            problems.append(f"{step}: still there after {over}")
    if "complete" in told and store.get(spool, told["complete"]) is None:
        problems.append("complete: acknowledged and not there")
    for step, over in (("begun", "complete"), ("another", "cancel")):
        begun = parted.get(spool, told.get(step, ""))
        if step in told and not begun and over not in (*told, under_way):
            problems.append(f"{step}: acknowledged and not there")
        if over in told and begun and over == "cancel":
            problems.append("cancelled, and still there")
        if begun and over not in (*told, under_way):
            known = {part.id for part in parted.parts_of(InParts(spool.files / begun.id))}
            expected = {told[part] for part in PARTS[step] if part in told}
            problems += [f"a part is lost: {part}" for part in expected - known]
    for step in CREATIONS:
        if step in told and told[step] not in batches:
            problems.append(f"{step}: acknowledged, and there is no such batch")
    third = batches.get(told.get("third", ""))
    if third and told.get("withdraw") and submitted.phase(spool, third) != "withdrawn":
        problems.append("withdrawn, and it is not")
    if "mark" in told and marks.read(spool, "mine") != {("r1", "b"): MARK}:
        problems.append("a mark is lost")
    if "hook" in told and "hooked" not in (*told, under_way) and hooks.waiting(spool) != [HOOK]:
        problems.append("a webhook is lost")
    if "hooked" in told and hooks.waiting(spool):
        problems.append("a webhook that was delivered is there again")
    return problems


def _named_folders(parent: Path) -> list[Path]:
    return [path for path in parent.glob("*") if not path.name.startswith(".")]


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- when nothing is left to do


def wrong_at_the_end(root: Path, steps: Sequence[str], taken: bool) -> list[str]:
    """Say what is not as it must be once everything was acknowledged.

    Args:
        taken: the daemon has taken what it found, and answered it.
    """
    spool, told = Spool(root), acknowledged_in(root)
    problems = wrong_now(root, steps)
    if list(told) != list(steps):
        return [*problems, f"not all was acknowledged: {list(told)}"]
    if "complete" in told and store.content(spool, told["complete"]).read_bytes() != CONTENT:
        problems.append("the parts are not what was sent")
    hidden = [*spool.files.glob(".*"), *WebFolder(spool.web).batches.glob(".*"), *spool.inbox.glob(".*")]
    expected = set()
    for step in [step for step in CREATIONS if step in told]:
        batch = submitted.get(spool, told[step])
        assert batch
        withdrawn = step == "third" and told.get("withdraw", False)
        if withdrawn:
            if (WebFolder(spool.web).batches / batch.id / "withdrawn").stat().st_size:
                problems.append("what was withdrawn keeps its bytes")
            if _is_taken(spool, batch):
                problems.append("what was withdrawn ran")
        elif taken:
            problems += _answered(spool, batch)
        else:
            expected |= {batch.file, f"{batch.file}.sha256"}
            expected |= {f"{batch.name}.priority"} if batch.priority is not None else set()
    inbox = set(os.listdir(spool.inbox))  # noqa: PTH208
    if taken:  # of one that was claimed before the other's submitter was done
        inbox = {name for name in inbox if name.endswith(".jsonl")}
    if inbox != expected or hidden:
        problems.append(f"in the inbox {inbox}, where {expected} should be; hidden: {hidden}")
    if len(submitted.all_of(spool)) != len([step for step in CREATIONS if step in told]):
        problems.append("batches that nobody was told of")
    if taken and len(list(spool.outbox.iterdir())) != len(expected_in_outbox(told)):
        problems.append(f"in the outbox {os.listdir(spool.outbox)}")  # noqa: PTH208
    return problems


def expected_in_outbox(told: Told) -> list[str]:
    return [told[step] for step in CREATIONS if step in told and not (step == "third" and told.get("withdraw"))]


def _answered(spool: Spool, batch: Submitted) -> list[str]:
    folder = Published(spool.outbox / batch.name)
    try:
        receipt = orjson.loads(folder.receipt.read_bytes())
    except FileNotFoundError:
        return [f"{batch.name}: no receipt"]
    answers = len((CONTENT if batch.idempotency != _name_of("others") else OTHERS).splitlines())
    priority = orjson.loads(folder.status.read_bytes())["priority"]
    if (receipt["status"], receipt["answers"], priority) != ("completed", answers, batch.priority or 0):
        return [f"{batch.name}: {receipt['status']}, {receipt['answers']} answers, priority {priority}"]
    return []


def _name_of(idempotency: str) -> str:
    return hashlib.sha256(idempotency.encode()).hexdigest()


# -- a blow, and what comes after


def blow(
    place: Path,
    steps: Sequence[str],
    strikes: Sequence[Strike],
    sabotage: Sabotage = None,
    with_daemon: bool = False,
    patience: int = 1,
) -> Finding:
    """Let the client work on a new spool, once with each strike, then to the end.

    Args:
        with_daemon: it takes what is there after each of them.
    """
    root = new_spool(place)
    problems = []
    for strike in strikes:
        struck = played(root, steps, strike, sabotage, patience)
        problems += wrong_now(root, steps)
        if with_daemon:
            drained(root)
            problems += wrong_now(root, steps)
    restart = played(root, steps, None, sabotage, patience)
    if with_daemon:
        drained(root)
    if restart.status:
        problems.append(f"the restart ended with {restart.status}: {restart.log}")
    else:
        problems += wrong_at_the_end(root, steps, with_daemon)
    problems += [f"left open: {path}" for path in restart.leaked + struck.leaked]
    problems += [f"synced again after its sync had failed: {path}" for path in struck.resynced]
    return Finding(", ".join(map(str, strikes)), struck, restart, problems)


def given_up(place: Path, steps: Sequence[str], strike: Strike, sabotage: Sabotage = None) -> tuple[Ended, list[str]]:
    """Let the client give up at what fails first. After a restart there is what was acknowledged, and nothing else."""
    root = new_spool(place)
    struck = played(root, steps, strike, sabotage)
    restart = played(root, (), None, sabotage)
    spool, told = Spool(root), acknowledged_in(root)
    problems = wrong_now(root, steps) if not restart.status else [restart.log]
    told_of = {told[step] for step in CREATIONS if step in told}
    if (there := {batch.id for batch in submitted.all_of(spool)}) != told_of:
        problems.append(f"the client was told of {told_of}, and there is {there}")
    if len(list(spool.inbox.glob("*.jsonl"))) != len(told_of):
        problems.append("files in the inbox that nobody was told of")
    problems += [f"left open: {path}" for path in struck.leaked]
    return struck, [f"{strike}: {problem}" for problem in problems]
