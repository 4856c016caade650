"""What must hold of a spool, whatever has happened to its daemon: read from the files alone. No test lives here."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from crashing import Ended, Strike, run
from running import error_of, jsonl, request

from inbox_daemon.layout import Published
from inbox_daemon.spool import proof

# Every batch passes through every operation more than once: parts of three lines or four, several syncs in a part, and
# a rest that only the end seals. Nothing waits for what only patience needs.
SETTINGS = """
[engine]
kind = "null"
model = "{model}"
in_flight = {in_flight}
[engine.null]
engines = {engines}
rate = {rate}
[inbox]
settle = 0
settle_unproven = 0
rescan = 0.1
watch = "poll"
strict = {strict}
[results]
sync_every = 2
sync_after = 60
seal_every = 3
"""
ANOTHER_MODEL = """
[model."org/b"]
"""

Sabotage = Callable[[], None] | None

GOOD = [request(f"r{i}", f"say {i}") for i in range(4)]
GOOD += [request(f"r{i}", "say the same", temperature=0) for i in (4, 5)]  # one is computed, both are answered
BATCH = (
    jsonl(GOOD[:1]) + b"this is not json\n" + jsonl(GOOD[1:2]) + b"\n" + jsonl(GOOD[2:4])
    + b'{"custom_id": "no body"}\n' + jsonl(GOOD[4:])
)  # fmt: skip


FOR_TWO = [
    request(f"r{i}", f"say {i}", **body)
    for i, body in enumerate(({"model": "org/b"}, {"model": "org/a"}, {}) * 2 + ({"model": "org/b"},))
]
MIXED = jsonl(FOR_TWO[:3]) + b"this is not json\n" + jsonl(FOR_TWO[3:])


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a run starts, and what it must end as.

    Attributes:
        start: a folder with the spool as it lies before the run, and beside it what was dropped.
        name: of the batch.
        status: with which it must end.
        dropped: the file's name; a rejected one must be in the outbox under it.
        stop_at: the operation at which the first run gets SIGTERM.
        resent: the file lies there a second time; that is counted, and nothing of it runs.
        recalled: two engines answer nothing, and the batch is cancelled while they have its requests.
        two_models: that take turns; requests name one of them, or none.
    """

    start: Path
    name: str = "b"
    status: str = "completed"
    dropped: str = "b.jsonl"
    strict: bool = False
    stop_at: int = 0
    recalled: bool = False
    resent: bool = False
    two_models: bool = False

    @property
    def settings(self) -> str:
        return self._settings + (ANOTHER_MODEL if self.two_models else "")

    @property
    def _settings(self) -> str:
        rest = {"model": "org/a" if self.two_models else "", "strict": str(self.strict).lower()}
        engines = {"in_flight": 8, "engines": 2, "rate": 0.001} if self.recalled else {}
        return SETTINGS.format(**{"in_flight": 2, "engines": 1, "rate": 0} | engines | rest)

    @property
    def happens(self) -> dict[str, Any]:
        """What `crashing.run` does to each run of this scene, beside the strike."""
        return {"cancel_at_work": self.name} if self.recalled else {}

    @property
    def original(self) -> Path:
        return self.start / self.dropped

    @property
    def rejected(self) -> bool:
        return self.dropped != "b.jsonl"


def scene(start: Path, content: bytes = BATCH, **what: Any) -> Scene:
    """Lay out a spool in which the batch has just been dropped."""
    made = Scene(start, **what)
    (start / "spool" / "inbox").mkdir(parents=True)
    made.original.write_bytes(content)
    shutil.copyfile(made.original, start / "spool" / "inbox" / made.dropped)
    return made


def copy(spool: Path, target: Path) -> None:
    """Copy a spool as it lies; files with two names still have two, and the inbox has its order of arrival."""
    subprocess.run(["cp", "-a", spool, target], check=True)
    came = sorted((spool / "inbox").glob("*"), key=lambda path: path.lstat().st_ctime_ns)
    for last, path in itertools.pairwise(came):
        come_after(target / "inbox" / last.name, target / "inbox" / path.name)


def come_after(last: Path, path: Path) -> None:
    """Have a file be the younger one of two: the kernel's stamps tick every 4 ms."""
    path.chmod(path.stat().st_mode & 0o777)
    while path.lstat().st_ctime_ns <= last.lstat().st_ctime_ns:
        path.chmod(path.stat().st_mode & 0o777)


def tree(spool: Path) -> dict[str, tuple[int, bytes, int]]:
    """Return every file and folder that lasts, with its mode, bytes and modification time."""
    found = {}
    for path in sorted(spool.rglob("*")):
        relative = path.relative_to(spool)
        if relative.parts[0] != "daemons" and relative.name != "b.resume":
            stat = path.stat()
            there = (path.read_bytes(), stat.st_mtime_ns) if path.is_file() else (b"", 0)
            found[str(relative)] = (stat.st_mode, *there)
    return found


# -- at any moment


def broken_now(spool: Path, scene: Scene) -> list[str]:
    """Say what is lost or partial at this very moment, with no daemon there to mend it."""
    problems = []
    outbox, work = _children(spool / "outbox"), _children(spool / "work")
    whole = [folder for folder in work if (folder / "batch.json").exists()]
    kept = (spool / "inbox" / scene.dropped).exists() or whole
    kept = kept or any(any((folder / "dropped").glob("*")) for folder in work)
    kept = kept or any((folder / scene.dropped).exists() for folder in outbox)  # come back
    if not kept and not any(Published(folder).receipt.exists() for folder in outbox):
        problems.append("the dropped file is gone, and there is neither a batch nor a receipt")
    for folder in outbox:
        there = Published(folder)
        for path in [*folder.glob("parts/*"), there.results, there.errors, there.retry()]:
            problems += torn(path)
        if not scene.rejected and there.input.exists() and there.input.read_bytes() != scene.original.read_bytes():
            problems.append(f"{there.input}: not what was dropped")
        try:
            counts = orjson.loads(there.status.read_bytes())["request_counts"]
        except (OSError, ValueError) as error:
            problems.append(f"{there.status}: {error!r}")
            continue
        counted = counts["completed"] + counts["failed"]
        recorded = sum(len(_lines(path)) for path in _log(whole[0])) if whole else 0
        if counted and not there.receipt.exists() and recorded < counted:
            problems.append(f"{counted} outcomes counted, {recorded} in the log")
        if there.receipt.exists():
            problems += _receipt(folder, scene)
    return problems


def published(spool: Path, scene: Scene) -> dict[str, tuple[int, bytes, int]]:
    """Return what users have of a batch from its receipt on, which is theirs; nothing before.

    That its file was sent again is counted in the status whenever that is.
    """
    folder = spool / "outbox" / scene.name
    found = tree(folder) if Published(folder).receipt.exists() else {}
    return {path: there for path, there in found.items() if "status.json" not in path or not scene.resent}


def _log(work: Path) -> list[Path]:
    """The batch's own names for its parts: a part that is being sealed has two names for a moment, and counts once."""
    parts = {path.stat().st_ino: path for path in [*work.glob("parts/*"), work / "open.jsonl"] if path.exists()}
    return list(parts.values())


def _children(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if not path.name.startswith(".")]


def _lines(path: Path) -> list[bytes]:
    """Return the lines that are whole."""
    return path.read_bytes().split(b"\n")[:-1]


def torn(path: Path) -> list[str]:
    """A file under a final name has nothing but whole lines, where it exists."""
    if not path.exists():
        return []
    *lines, rest = path.read_bytes().split(b"\n")
    try:
        for line in lines:
            orjson.loads(line)
    except ValueError:
        return [f"{path}: a line is not JSON"]
    return [f"{path}: the last line has no end"] if rest else []


def _receipt(folder: Path, scene: Scene) -> list[str]:
    try:
        found = proof.verify(Published(folder), None if scene.rejected else scene.original)
        said = orjson.loads(Published(folder).status.read_bytes())["status"]
        if said != found.receipt["status"]:
            found.problems.append(f"{folder}: the receipt is there, and status.json says {said}")
        if scene.rejected and not (folder / scene.dropped).exists():
            found.problems.append(f"{folder}: the receipt is there, and the file has not come back")
        return found.problems
    except (OSError, ValueError, KeyError) as error:
        return [f"{folder}/receipt.json: {error!r}"]


# -- when nothing is left to do


def broken_at_the_end(spool: Path, scene: Scene) -> list[str]:
    """Say what is not as promised once the daemon has nothing left to do."""
    folder = spool / "outbox" / scene.name
    if not Published(folder).receipt.exists():
        return [f"{folder}: no receipt; there is {sorted(tree(spool))}"]
    problems = broken_now(spool, scene)
    status = orjson.loads(Published(folder).status.read_bytes())
    receipt = orjson.loads(Published(folder).receipt.read_bytes())
    if not status["status"] == receipt["status"] == scene.status:
        problems.append(f"status.json says {status['status']}, the receipt {receipt['status']}")
    if bool(status["resent"]) is not scene.resent:
        problems.append(f"status.json says that the file was sent again {status['resent']} times")
    if scene.rejected:
        if (folder / scene.dropped).read_bytes() != scene.original.read_bytes():
            problems.append(f"{folder / scene.dropped}: not as it was dropped")
        expected = {"status.json", "receipt.json", "parts", scene.dropped}
    else:
        counts = {"total": 8, "completed": receipt["answers"], "failed": receipt["errors"]}
        if status["request_counts"] != counts:
            problems.append(f"status.json counts {status['request_counts']}, the receipt {counts}")
        problems += _lines_of_the_batch(folder, scene)
        expected = {"status.json", "receipt.json", "parts", "input.jsonl", "results.jsonl", "errors.jsonl"}
        if receipt["files"].keys() & {"retry.jsonl"}:
            expected.add("retry.jsonl")
    left = {str(path.relative_to(folder)) for path in folder.iterdir()} ^ expected
    elsewhere = [str(path) for place in ("inbox", "work") for path in (spool / place).iterdir()]
    if (spool / "inbox" / "b.resume").exists():  # removed last: killed before that, it is thrown away another time
        elsewhere.remove(str(spool / "inbox" / "b.resume"))
    others = [str(path) for path in (spool / "outbox").iterdir() if path != folder]
    if left or elsewhere or others:
        problems.append(f"missing or left lying: {sorted(left) + elsewhere + others}")
    return problems


def _lines_of_the_batch(folder: Path, scene: Scene) -> list[str]:
    """Each request has one line, in the input's order, and an answer is the answer to its own request."""
    requests: dict[int, bytes] = {
        number: line for number, line in enumerate(scene.original.read_bytes().split(b"\n"), 1) if line
    }
    numbers = {orjson.loads(line)["custom_id"]: n for n, line in requests.items() if b'"method"' in line}
    problems, found = [], []
    for name in ("results.jsonl", "errors.jsonl"):
        ours = []
        for line in map(orjson.loads, _lines(folder / name)):
            number = error_of(line).line if "line" in line else numbers[line["custom_id"]]
            ours.append(number)
            if "line" not in line:
                content = line["response"]["body"]["choices"][0]["message"]["content"]
                if content != f"null engine: {len(requests[number])} bytes read":
                    problems.append(f"{name}: line {number} has another's answer")
                asked = orjson.loads(requests[number])["body"].get("model") or "org/a"
                if scene.two_models and line["response"]["body"]["model"] != asked:
                    problems.append(f"{name}: line {number} has another model's answer")
            elif scene.status == "completed" and number in numbers.values():
                problems.append(f"{name}: line {number} has an error: {error_of(line)}")
        if ours != sorted(ours):
            problems.append(f"{name}: not in the input's order: {ours}")
        found += ours
    if sorted(found) != list(requests):
        problems.append(f"lines {list(requests)} were asked, lines {sorted(found)} have an outcome")
    ids = sorted(orjson.loads(line)["id"] for part in folder.glob("parts/*") for line in _lines(part))
    if len(ids) != len(requests) or len(set(ids)) != len(ids):
        problems.append(f"the parts together hold {len(ids)} lines of {len(set(ids))} requests")
    return problems


# -- a run, a blow, and what comes after


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one spool.

    Attributes:
        blows: every strike, in order, for people.
        struck: how the run ended that the last strike was meant for.
        restart: how the run ended that followed.
    """

    blows: str
    struck: Ended
    restart: Ended
    problems: list[str]


def end_well(spool: Path, scene: Scene, sabotage: Sabotage = None, *, again: bool = True) -> tuple[Ended, list[str]]:
    """Start the daemon until it has nothing left to do, then once more; return what is not as promised."""
    restart = run(spool, scene.settings, sabotage=sabotage, **scene.happens)
    problems = [] if restart.status in (0, 3) else [f"the restart ended with {restart.status}: {restart.log}"]
    problems += broken_at_the_end(spool, scene)
    problems += [f"left open: {path}" for path in restart.leaked]
    if again and not problems:
        before = tree(spool)
        once_more = run(spool, scene.settings, sabotage=sabotage, **scene.happens)
        if once_more.status != 0 or tree(spool) != before:
            difference = _difference(before, tree(spool))
            problems.append(f"one more start ended with {once_more.status} and changed {difference}")
    return restart, problems


def _difference(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def blow(scene: Scene, spool: Path, strikes: Sequence[Strike], sabotage: Sabotage = None) -> Finding:
    """Copy the scene's spool to `spool`, run it once for each strike, then to the end."""
    spool.parent.mkdir(parents=True)
    copy(scene.start / "spool", spool)
    problems = []
    for strike in strikes:
        struck = run(spool, scene.settings, strike, sabotage=sabotage, stop_at=scene.stop_at, **scene.happens)
        refused = struck.status == 1 and "ready: " not in struck.log  # a start that says why, and is tried again
        if not struck.killed and not refused and struck.status not in (0, 3):
            problems.append(f"a run ended with {struck.status}: {struck.log}")
        problems += broken_now(spool, scene)
    before = published(spool, scene)
    restart, found = end_well(spool, scene, sabotage, again=len(strikes) == 1)
    if before and (changed := _difference(before, published(spool, scene))):
        problems.append(f"published again after the receipt was there: {changed}")
    shutil.rmtree(spool.parent)
    return Finding(", ".join(map(str, strikes)), struck, restart, problems + found)
