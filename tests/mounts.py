"""File systems for one test, in memory or in images: mounted below a folder, gone at the end. No test lives here."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# xfsprogs makes nothing below 300 MB; images are sparse, so it costs nothing.
SIZES = {"ext4": 64 << 20, "xfs": 300 << 20}


class Mounts:
    """Makes, mounts and at the end unmounts, whoever still has files open there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mounted: list[Path] = []

    def mount(self, what: str | Path, kind: str, options: str = "rw", at: Path | None = None) -> Path:
        """Mount at a fresh folder, or at a given one, and return where."""
        at = at or self._folder / f"mount-{len(self._mounted)}"
        at.mkdir(exist_ok=True)
        if isinstance(what, Path):
            options += ",loop"
        subprocess.run(["mount", "-t", kind, "-o", options, what, at], check=True)
        self._mounted.append(at)
        return at

    def memory(self, size: int) -> Path:
        return self.mount("tmpfs", "tmpfs", f"size={size}")

    def unmount(self, at: Path) -> None:
        """Unmount at once from everybody's view; the file system ends with the last file open on it."""
        subprocess.run(["umount", "--lazy", at], check=True)
        self._mounted.remove(at)

    def close(self) -> None:
        for at in reversed(list(self._mounted)):
            self.unmount(at)


def image(path: Path, kind: str, size: int = 0) -> Path:
    """Make an image file with an empty file system in it."""
    with path.open("wb") as file:
        file.truncate(size or SIZES[kind])
    subprocess.run([f"mkfs.{kind}", "-q", path], check=True)
    return path


@contextmanager
def frozen(at: Path) -> Iterator[None]:
    """Let nothing change on this file system for a while; who writes, waits."""
    subprocess.run(["fsfreeze", "--freeze", at], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", at], check=True)
