"""`inbox-daemon submit`: checks files, then drops them into the inbox, all or none, whole, by one rename each."""

from __future__ import annotations

import argparse
import filecmp
import shlex
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from inbox_daemon.cli import check, given, show, status
from inbox_daemon.cli.given import Given
from inbox_daemon.cli.settings import settings
from inbox_daemon.config import Config
from inbox_daemon.errors import InboxDaemonError, SpoolError
from inbox_daemon.layout import SUFFIXES, Spool, batch_name, is_batch_file
from inbox_daemon.request import named
from inbox_daemon.request.reading import models_of
from inbox_daemon.spool import drop, published, resent, views
from inbox_daemon.spool.shapes import BatchObject
from inbox_daemon.text import shown

_ABOUT = """\
Check files of requests and hand them to the daemon: all of them, or none where one of them cannot run. Prints the name
of each file's batch.

  inbox-daemon submit candidates.jsonl --wait
  make-requests | inbox-daemon submit - --name candidates
  inbox-daemon submit candidates.jsonl --model qwen --model gemma
"""
_PATIENCE = 3.0  # seconds for a daemon to take the files and name their batches
_POLL = 0.05  # seconds


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = _ABOUT
    verb.formatter_class = argparse.RawDescriptionHelpFormatter
    given.add(verb, "what the batch is called that comes on stdin; with a suffix where it comes compressed")
    verb.add_argument(
        "--model",
        dest="models",
        action="append",
        default=[],
        metavar="MODEL",
        help="have this model answer all of it, whatever the lines name; given several times, a batch for each model",
    )
    verb.add_argument("--again", action="store_true", help="run it though the same file was submitted before")
    verb.add_argument("--keep-going", action="store_true", help="where a file cannot run, submit the others")
    verb.add_argument("--wait", action="store_true", help="show progress and end with the batch's result")
    verb.set_defaults(go=go)


class Copy(NamedTuple):
    """One file as it is to be dropped: where it lies, what messages call it, and its name in the inbox."""

    path: Path
    called: str
    name: str


def go(asked: argparse.Namespace) -> int:
    read = settings(asked)
    spool = Spool(Path(read.spool))
    if not published.is_folder(spool.inbox):
        raise SpoolError(f"{spool.inbox} is not there: no daemon has run on this spool; name another with --spool")
    slugs = _slugs(spool, read, asked.models)
    with given.read(asked.files, asked.name) as files:
        wanted = [copy for file in files for copy in _copies(file, slugs)]
        good = [copy for copy in wanted if _can_run(spool, copy, read, asked.again)]
        repeated = _repeated(good)
        good = [copy for copy in good if copy not in repeated]
        if not good or (len(good) < len(wanted) and not asked.keep_going):
            if len(wanted) > 1:
                hint = "; --keep-going submits the others" if good else ""
                show.say(
                    f"nothing was submitted: {len(wanted) - len(good)} of {len(wanted)} cannot be{hint}", show.errors
                )
            return 1
        ended = _run(spool, good, asked.wait)
    return 1 if len(good) < len(wanted) else ended


def _slugs(spool: Spool, read: Config, models: Sequence[str]) -> list[str]:
    """Return how a file's name says each of these models. Raises InboxDaemonError where there is no such model."""
    if not models:
        return []
    meant = ours.meant if (ours := models_of(read)) else {}
    for daemon in published.daemons(spool):
        if daemon["alive"]:
            meant |= {name: name for name in daemon.get("models", ()) if name not in meant}
    slugs: list[str] = []
    for model in models:
        if (slug := named.slug_of(model, meant)) is None:
            known = ", ".join(sorted(map(shown, meant))) or "none; [engine] model in the settings says one"
            raise InboxDaemonError(f"--model {shown(model)}: no model here is called so; there are: {known}")
        slugs.append(slug)
    return list(dict.fromkeys(slugs))


def _copies(file: Given, slugs: Sequence[str]) -> list[Copy]:
    """Return what is to be dropped of a file: itself, or a copy for each model, whose name says it."""
    if not slugs:
        return [Copy(file.path, str(file.called), file.path.name)]
    return [Copy(file.path, f"{file.called}@{slug}", named.saying(file.path.name, slug)) for slug in slugs]


def _can_run(spool: Spool, file: Copy, read: Config, again: bool) -> bool:
    """Say what is wrong with a file; return whether it is to be submitted. Raises OSError where it is not there."""
    if not is_batch_file(file.path.name):
        show.say(f"{file.called}: not submitted: the inbox takes {', '.join(SUFFIXES)}", show.errors)
        return False
    try:
        faults = check.faults_of(file.path, read, name=file.name)
    except FileNotFoundError:
        show.say(f"{file.called}: not submitted: there is no such file", show.errors)
        return False
    if faults.fatal or faults.count == faults.requests or (read.inbox.strict and faults.count):
        check.report(Path(file.called), faults)
        show.say(f"{file.called}: not submitted: nothing of it could run", show.errors)
        return False
    if faults.count:
        show.say(f"{file.called}: {faults.count} of {faults.requests} lines are faulty; the others run", show.errors)
    if not again and (first := resent.known(spool, file.path, file.name)):
        same = f"{first} is of the same bytes, so it is not submitted; --again has it run"
        show.say(f"{file.called}: {same}", show.errors)
        return False
    return True


def _repeated(files: Sequence[Copy]) -> list[Copy]:
    """Return those of the files that are another's copy under the same name, and say so: the daemon runs one."""
    found = []
    for at, file in enumerate(files):
        for other in files[:at]:
            same_name = batch_name(other.name) == batch_name(file.name)
            if same_name and filecmp.cmp(other.path, file.path, shallow=False):
                show.say(f"{file.called}: not submitted: {other.called} is the same file", show.errors)
                found.append(file)
                break
    return found


def _run(spool: Spool, copies: Sequence[Copy], wait: bool) -> int:
    """Drop the files and say what becomes of them; return how they ended, 0 where nobody waits."""
    dropped: list[drop.Dropped] = []
    try:
        try:
            with published.permitted(spool.inbox, "write to"):
                for one in drop.drop_all(spool, [(copy.path, copy.name) for copy in copies]):
                    dropped.append(one)
        finally:
            _name(spool, dropped)
        if not wait:
            return 0
        ends = [status.watch(spool, batch_name(one.file), partial(_made_of, spool, one)) for one in dropped]
    except KeyboardInterrupt:
        if dropped:
            _say_it_goes_on(spool, dropped)
        raise
    return 1 if 1 in ends else max(ends)  # failed is worse than done with errors


def _name(spool: Spool, dropped: Sequence[drop.Dropped]) -> None:
    """Print the name of each file's batch; of a file that is not taken soon, where it lies and why."""
    deadline = time.monotonic() + _PATIENCE
    for one in dropped:
        while not (made := _made_of(spool, one)):
            if not views.runs_on(spool) or time.monotonic() >= deadline:
                break
            time.sleep(_POLL)
        if made:
            show.say(made["name"])
        else:
            show.say(f"{spool.inbox / one.file}: not taken yet{views.because(spool, batch_name(one.file))}")


def _say_it_goes_on(spool: Spool, dropped: Sequence[drop.Dropped]) -> None:
    """Who presses Ctrl-C ends the waiting and nothing else; say so, and how to look again and how to end it."""
    names = []
    for one in dropped:
        made = _made_of(spool, one)
        if made is None or not views.has_ended(made):
            names.append(made["name"] if made else batch_name(one.file))
    for name in names:
        word = shlex.quote(name)
        how = f"look again: inbox-daemon status {word} --watch; end it: inbox-daemon cancel {word}"
        show.say(f"{name} goes on without you; {how}", show.errors)


def _made_of(spool: Spool, one: drop.Dropped) -> BatchObject | None:
    return published.made_of(spool, one.file, one.mark)
