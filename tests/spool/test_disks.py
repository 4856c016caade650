"""Real disks that are full or suddenly read-only, and then are not: the daemon goes on by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from mounts import Mounts, image
from running import Daemon, batch_of, custom_ids, eventually

from inbox_daemon.layout import Published
from inbox_daemon.spool import proof

pytestmark = pytest.mark.root

Start = Callable[..., Daemon]
MB = 1_000_000
# No margin is kept free, so that the disk really gets full.
TO_THE_LAST_BYTE = {
    "INBOX_DAEMON_RESULTS__KEEP_FREE": "0",
    "INBOX_DAEMON_RESULTS__SYNC_EVERY": "20",
    "INBOX_DAEMON_RESULTS__SEAL_EVERY": "50",
    "INBOX_DAEMON_ENGINE__NULL__RATE": "400",
    "INBOX_DAEMON_ENGINE__IN_FLIGHT": "40",
}
# The command that follows, in this process, but for the seconds until a batch that failed is tried again.
IMPATIENT = [
    sys.executable,
    "-c",
    "import sys; from inbox_daemon import batches, cli; batches._SUSPEND = 1.0; sys.exit(cli.main(sys.argv[4:]))",
]


def answered(daemon: Daemon, name: str, original: Path, count: int) -> None:
    status = daemon.finished(name)
    assert status["request_counts"] == {"total": count, "completed": count, "failed": 0}
    assert custom_ids(daemon.outbox(name) / "results.jsonl") == [f"r{i}" for i in range(count)]
    assert proof.verify(Published(daemon.outbox(name)), original).problems == []


def fill(folder: Path) -> Path:
    """Leave not one byte free."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (MB, 4096, 1):
            with suppress(OSError):
                while file.write(b"x" * size):
                    pass
        with suppress(OSError):
            os.fsync(file.fileno())
    return filler


def ext4(mounts: Mounts) -> Path:
    return mounts.mount(image(mounts.memory(40 * MB) / "image", "ext4", 16 * MB), "ext4")


def tmpfs(mounts: Mounts) -> Path:
    return mounts.memory(16 * MB)


@pytest.mark.parametrize("disk", [ext4, tmpfs])
def test_a_disk_that_gets_full_in_mid_batch_stops_it_until_there_is_room(
    mounts: Mounts, start_daemon: Start, tmp_path: Path, disk: Callable[[Mounts], Path]
) -> None:
    at = disk(mounts)
    original = tmp_path / "b.jsonl"
    original.write_bytes(batch_of(3000))
    daemon = start_daemon(at / "spool", environment=TO_THE_LAST_BYTE, prefix=IMPATIENT)
    daemon.drop("b.jsonl", original.read_bytes())
    eventually(lambda: daemon.done("b") >= 100)
    filler = fill(at)
    eventually(lambda: "No space left on device" in daemon.text(), 60, daemon.text())
    [said] = [line for line in daemon.text().splitlines() if "No space left on device" in line][:1]
    assert str(at / "spool") in said
    assert "bytes are missing" in said or "there is room for" in said
    counted = daemon.done("b")
    assert daemon.process.poll() is None
    assert counted < 3000
    filler.unlink()
    answered(daemon, "b", original, 3000)


def test_a_file_dropped_on_a_full_disk_waits_and_says_for_what(
    mounts: Mounts, start_daemon: Start, tmp_path: Path
) -> None:
    at = tmpfs(mounts)
    original = tmp_path / "b.jsonl"
    original.write_bytes(batch_of(100))
    daemon = start_daemon(at / "spool", environment=TO_THE_LAST_BYTE, prefix=IMPATIENT)
    hidden = daemon.inbox / ".b.jsonl"
    hidden.write_bytes(original.read_bytes())
    filler = fill(at)
    hidden.rename(daemon.inbox / "b.jsonl")
    eventually(lambda: "'b.jsonl' waits for disk space" in daemon.text(), 60, daemon.text())
    filler.unlink()
    answered(daemon, "b", original, 100)


def test_a_claimed_file_waits_for_the_room_that_its_copy_needs(
    mounts: Mounts, start_daemon: Start, tmp_path: Path
) -> None:
    at = tmpfs(mounts)
    original = tmp_path / "b.jsonl"
    original.write_bytes(batch_of(100))
    dropped = at / "spool" / "work" / "batch_0000000000010123456789" / "dropped" / "b.jsonl"
    dropped.parent.mkdir(parents=True)
    dropped.write_bytes(original.read_bytes())
    filler = at / "filler"
    filler.write_bytes(bytes(12 * MB))
    margin = {"INBOX_DAEMON_RESULTS__KEEP_FREE": str(6 * MB)}
    daemon = start_daemon(at / "spool", environment=TO_THE_LAST_BYTE | margin)
    eventually(lambda: "b: waiting for disk space: " in daemon.text(), 60, daemon.text())
    assert daemon.status("b")["waiting_for_disk_bytes"] > 0
    filler.unlink()
    answered(daemon, "b", original, 100)
    assert "b: there is disk space again" in daemon.text()


def test_a_disk_that_became_read_only_is_used_again_when_it_may_be_written(
    mounts: Mounts, start_daemon: Start, tmp_path: Path
) -> None:
    at = ext4(mounts)
    original = tmp_path / "b.jsonl"
    original.write_bytes(batch_of(20))
    daemon = start_daemon(at / "spool", environment=TO_THE_LAST_BYTE)
    daemon.signal(signal.SIGSTOP)  # however long the mount takes, the file is not claimed before it
    daemon.drop("b.jsonl", original.read_bytes())
    subprocess.run(["mount", "-o", "remount,ro", at], check=True)
    daemon.signal(signal.SIGCONT)
    eventually(lambda: "'b.jsonl' cannot be claimed" in daemon.text(), 60, daemon.text())
    assert "Read-only file system" in daemon.text()
    subprocess.run(["mount", "-o", "remount,rw", at], check=True)
    answered(daemon, "b", original, 20)


def test_a_file_system_that_fails_in_mid_batch_goes_on_once_it_is_mounted_again(
    mounts: Mounts, start_daemon: Start, tmp_path: Path
) -> None:
    """As after an error of the disk: ext4 stops its journal, and nothing can be written until somebody mends it."""
    disk = image(mounts.memory(40 * MB) / "image", "ext4", 16 * MB)
    at = mounts.mount(disk, "ext4", "errors=remount-ro")
    original = tmp_path / "b.jsonl"
    original.write_bytes(batch_of(3000))
    daemon = start_daemon(at / "spool", environment=TO_THE_LAST_BYTE, prefix=IMPATIENT)
    daemon.drop("b.jsonl", original.read_bytes())
    eventually(lambda: daemon.done("b") >= 100)
    device = subprocess.run(["findmnt", "-no", "SOURCE", at], check=True, capture_output=True, text=True).stdout
    Path("/sys/fs/ext4", Path(device.strip()).name, "trigger_fs_error").write_text("an error of the disk")
    eventually(lambda: "suspended for" in daemon.text(), 60, daemon.text())
    counted = daemon.done("b")
    mounts.unmount(at)
    subprocess.run(["fsck.ext4", "-pf", disk], check=False, stdout=subprocess.DEVNULL)
    mounts.mount(disk, "ext4", at=at)
    answered(daemon, "b", original, 3000)
    [resumed] = [line for line in daemon.text().splitlines() if "b: resumed: " in line][-1:]
    assert int(resumed.split("requests, ")[1].split(" done")[0]) >= counted
