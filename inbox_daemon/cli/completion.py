"""`inbox-daemon completion SHELL`: what a shell has to read to complete verbs, flags, files and names of batches.

Made by shtab from the parsers of all verbs. The names of batches and of models are asked for while somebody types
(`completion names`, `completion models`), so that those of the spool and of the settings come, as they are now.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from inbox_daemon.cli.settings import settings
from inbox_daemon.config.models import configured
from inbox_daemon.layout import Spool

_SHELLS = ("bash", "zsh", "fish")
_NAMES, _MODELS = "names", "models"
_FILES = {"FILE", "NEW_FILE"}
_FOLDERS = {"DIR", "FOLDER"}
_BATCHES = {"BATCH", "RETRY", "OUTBOX/NAME"}
_NAMED_MODEL = "MODEL"
# A shell expands what it is given to choose from, and who drops a file chooses a name.
_HARMLESS = re.compile(r"[\w@%+=:,.][\w@%+=:,.-]*")

_HOW = """\
for all users, tools/install puts these in place; for yourself:

  inbox-daemon completion bash > ~/.local/share/bash-completion/completions/inbox-daemon
  inbox-daemon completion zsh > ~/.zfunc/_inbox-daemon      with fpath+=~/.zfunc before compinit in ~/.zshrc
  inbox-daemon completion fish > ~/.config/fish/completions/inbox-daemon.fish
"""


def add(verb: argparse.ArgumentParser) -> None:
    verb.formatter_class = argparse.RawDescriptionHelpFormatter
    verb.epilog = _HOW
    verb.add_argument(
        "shell",
        choices=(*_SHELLS, _NAMES, _MODELS),
        help=f"{_NAMES}: of the batches in the outbox, one a line; {_MODELS}: configured ones",
    )
    verb.set_defaults(go=go)


def go(given: argparse.Namespace) -> int:
    if given.shell == _NAMES:
        print("\n".join(names(Spool(Path(settings(given).spool)))))
    elif given.shell == _MODELS:
        print("\n".join(model.name for model in configured(settings(given))))
    else:
        print(script(given.shell))
    return 0


def names(spool: Spool) -> list[str]:
    """Return the names of batches that a shell may be given. Raises OSError where the outbox cannot be read."""
    return sorted(path.name for path in spool.outbox.iterdir() if _HARMLESS.fullmatch(path.name))


def script(shell: str) -> str:
    """Return what `shell` reads to complete `inbox-daemon`."""
    import shtab

    from inbox_daemon.cli import parser

    batches = shtab.cmd(f"inbox-daemon completion {_NAMES} 2>/dev/null")
    models = shtab.cmd(f"inbox-daemon completion {_MODELS} 2>/dev/null")

    def complete(command: argparse.ArgumentParser) -> None:
        for action in command._actions:
            if isinstance(action, argparse._SubParsersAction):
                for verb in action.choices.values():
                    complete(verb)
            elif action.metavar in _FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.metavar in _FOLDERS:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif action.metavar == _NAMED_MODEL:
                action.complete = models  # type: ignore[attr-defined]
            elif action.metavar in _BATCHES or (action.metavar == "NAME" and not action.option_strings):
                action.complete = batches  # type: ignore[attr-defined]

    whole = parser()
    complete(whole)
    said: str = shtab.complete(whole, shell)
    return said
