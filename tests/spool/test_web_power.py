"""Power cuts of the web process's disk: what a client was told of before one is there after it, and whole.

How the power is cut: `test_power`. The client's own ledger lies on another disk.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import orjson
import pytest
from mounts import SIZES, Mounts, frozen, image
from running import eventually

from inbox_daemon.layout import Spool
from inbox_daemon.spool import joined, marks, parted, store, submitted

pytestmark = pytest.mark.root

NO_FDATASYNC = "import os\nos.fdatasync = lambda fd: None\n"
CLIENT = """
import os, sys
from pathlib import Path
from test_web_power import work
work(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def content_of(number: int) -> bytes:
    return f"upload {number}\n".encode() * 2000


def work(root: Path, ledger: Path) -> None:
    """Upload, create, mark, and take back or delete now and then, and write down what was acknowledged, for ever."""
    spool = Spool(root)
    (root / "inbox").mkdir(parents=True)
    store.recover(spool)
    submitted.recover(spool)
    with ledger.open("ab", buffering=0) as told:
        for number in count():
            with store.begin(spool, ".jsonl") as upload:
                upload.write(content_of(number))
                kept = upload.keep(str(number), "batch", None, "", 1e9 + number)
            told.write(orjson.dumps(["uploaded", kept.id, number]) + b"\n")
            if number % 5 == 0:
                told.write(orjson.dumps(["uploaded", _in_parts(spool, number), number]) + b"\n")
            asked = submitted.Asked(input_file_id=kept.id, endpoint="", completion_window="24h")
            batch = submitted.create(spool, store.content(spool, kept.id), "b", asked, str(number), 1e9 + number)
            told.write(orjson.dumps(["created", batch.id, number]) + b"\n")
            marks.add(spool, "mine", marks.Mark(str(number), batch.name, "good", "", 1e9, None, None))
            told.write(orjson.dumps(["marked", batch.name, number]) + b"\n")
            if number % 3 == 1 and submitted.withdraw(spool, batch):
                told.write(orjson.dumps(["withdrawn", batch.id, number]) + b"\n")
            if number % 3 == 2 and store.delete(spool, kept.id):
                told.write(orjson.dumps(["deleted", kept.id, number]) + b"\n")


def _in_parts(spool: Spool, number: int) -> str:
    content = content_of(number)
    begun = parted.begin_parts(spool, str(number), len(content), "batch", "", "", 1e9 + number)
    parts = []
    for piece in (content[:999], content[999:]):
        with parted.append(spool, begun.id) as coming:
            coming.write(piece)
            parts.append(coming.keep(1e9).id)
    return joined.complete(spool, begun.id, parts, None, 1e9).id


def missing(root: Path, told: list[tuple[str, str, int]]) -> list[str]:
    """Start on what the disk held; say what a client was told of and is not so."""
    spool = Spool(root)
    store.recover(spool)
    submitted.recover(spool)
    seen = set(told)
    last = told[-1][2]
    problems = []
    for what, id, number in told:
        match what:
            case "uploaded" if number % 3 != 2:  # else it may be deleted by now
                good = (kept := store.get(spool, id)) and _is(store.content(spool, kept.id), number)
            case "deleted":
                good = store.get(spool, id) is None
            case "created":
                batch = submitted.get(spool, id)
                there = batch and spool.inbox / batch.file
                withdrawn = number % 3 == 1 and (("withdrawn", id, number) in seen or number == last)
                good = batch and there and (withdrawn or _is(there, number))
                sidecar = spool.inbox / f"{batch.file}.sha256" if batch else there
                good = good and (withdrawn or (sidecar is not None and sidecar.read_text().startswith(batch.sha256)))
            case "withdrawn":
                good = (batch := submitted.get(spool, id)) and submitted.phase(spool, batch) == "withdrawn"
            case "marked":
                good = (str(number), id) in marks.read(spool, "mine")
            case _:
                good = True
        problems += [] if good else [f"{what} {number}"]
    return problems


def _is(path: Path, number: int) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(content_of(number)).digest()
    except FileNotFoundError:
        return False


def cuts(mounts: Mounts, folder: Path, times: int, sabotage: str = "", kind: str = "ext4") -> tuple[int, list[str]]:
    """Return how much had been acknowledged at all cuts together, and what was missing after them."""
    outer = mounts.mount(image(mounts.memory(2 * SIZES[kind]) / "outer", "ext4", SIZES[kind] + (64 << 20)), "ext4")
    disk = image(outer / "disk", kind)
    spool = mounts.mount(disk, kind, "commit=300" if kind == "ext4" else "rw") / "spool"
    (folder / "sitecustomize.py").write_text(sabotage)
    path = f"{folder}:{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}:{':'.join(sys.path)}"
    command = [sys.executable, "-c", CLIENT, str(spool), str(folder / "ledger")]
    client = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path})

    def told() -> list[tuple[str, str, int]]:
        lines = (folder / "ledger").read_bytes().split(b"\n")[:-1] if (folder / "ledger").exists() else []
        return [(what, id, number) for what, id, number in map(orjson.loads, lines)]

    acknowledged, problems, enough = 0, [], 0
    try:
        for number in range(times):
            enough += 37
            eventually(lambda enough=enough: len(told()) >= enough)  # type: ignore[misc]
            before, copy = told(), folder / f"cut-{number}"
            with frozen(outer):
                subprocess.run(["cp", "--sparse=always", disk, copy], check=True)
            client.send_signal(signal.SIGSTOP)  # or it fills the disk meanwhile
            at = mounts.mount(copy, kind, "rw" if kind == "ext4" else "nouuid")
            acknowledged += len(before)
            problems += [f"cut {number}: {problem}" for problem in missing(at / "spool", before)]
            mounts.unmount(at)
            copy.unlink()
            client.send_signal(signal.SIGCONT)
    finally:
        client.kill()
        client.wait()
    return acknowledged, problems


def test_no_power_cut_takes_away_what_a_client_was_told_of(mounts: Mounts, tmp_path: Path) -> None:
    acknowledged, problems = cuts(mounts, tmp_path, 6)
    print(f"{acknowledged} acknowledged before the cuts")
    assert problems == []


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", [kind for kind in SIZES if shutil.which(f"mkfs.{kind}")])
def test_none_of_forty_power_cuts_takes_away_what_a_client_was_told_of(
    mounts: Mounts, tmp_path: Path, kind: str
) -> None:
    acknowledged, problems = cuts(mounts, tmp_path, 40, kind=kind)
    print(f"{kind}: {acknowledged} acknowledged before the cuts")
    assert problems == []


def test_a_web_process_that_does_not_sync_is_found_out(mounts: Mounts, tmp_path: Path) -> None:
    assert cuts(mounts, tmp_path, 2, NO_FDATASYNC)[1] != []
