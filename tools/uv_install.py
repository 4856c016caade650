#!/usr/bin/env python3
"""Runs `uv pip install` where pip would look: uv does not read pip's settings, and a host may have an index of its own.

For tools/setup, which runs it with the Python of the environment that is to be filled. It becomes uv, so its exit
status and its output are uv's.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping

FLAGS = {
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "constraint": "--constraint",
    "trusted-host": "--allow-insecure-host",
}
SECTIONS = ("global", "install", ":env:")  # a later one wins; the last are variables such as PIP_INDEX_URL


def told(lines: Iterable[str]) -> dict[str, str]:
    """Return pip's settings for `pip install`, of what `pip config list` prints: `SECTION.KEY='VALUE'` a line."""
    found: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in lines:
        name, is_setting, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if is_setting and section in found:
            found[section][key] = ast.literal_eval(value)
    return {key: value for section in SECTIONS for key, value in found[section].items()}


def flags(settings: Mapping[str, str]) -> list[str]:
    """Return the flags that make uv look where pip with these settings looks, and choose what pip would choose."""
    said = ["--index-strategy", "unsafe-best-match"]  # the newest of all indexes, as pip has it
    for key, flag in FLAGS.items():
        for value in settings.get(key, "").split():
            said += [flag, value]
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        said.append("--no-index")
    return said


def main() -> None:
    uv, *rest = sys.argv[1:]
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], stdout=subprocess.PIPE, text=True, check=True
    )
    settings = told(listed.stdout.splitlines())
    if "cert" in settings:
        os.environ.setdefault("SSL_CERT_FILE", settings["cert"])
    if "proxy" in settings:
        os.environ.setdefault("ALL_PROXY", settings["proxy"])
    os.execvp(uv, [uv, "pip", "install", "--python", sys.executable, *flags(settings), *rest])


if __name__ == "__main__":
    main()
