"""Whether a command can be given mounts of its own here, so that a disk can be filled that is nobody else's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def own_mounts(folder: Path) -> tuple[list[str], str]:
    """Return the command before a command that gives it mounts of its own, or [] and why this host allows none."""
    why = ""
    ways = (["--mount"], ["--user", "--map-root-user", "--mount"])
    for way in ways if os.geteuid() == 0 else ways[1:]:
        command = ["unshare", *way, "--"]
        attempt = [*command, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
        try:
            done = subprocess.run(attempt, check=False, capture_output=True, text=True)
        except FileNotFoundError:
            return [], "there is no unshare on this host (package util-linux)"
        if done.returncode == 0:
            return command, ""
        why = done.stderr.strip()
    as_root = "" if os.geteuid() == 0 else "; root may be allowed to"
    return [], f"this user may not mount a disk of their own here: {why}{as_root}"
