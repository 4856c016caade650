"""`inbox-daemon check`: every fault of a file at once, before anything runs.

Owns what is said of a file. Its form is looked at by the daemon's own rules (`form`); vLLM, where it is installed and
has the model, is asked what else it would refuse (`asking`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from inbox_daemon.cli import given, show
from inbox_daemon.cli.alike import Kinds
from inbox_daemon.cli.asking import Asking, NotAsked
from inbox_daemon.cli.form import Faults, Form, form_of
from inbox_daemon.cli.settings import settings
from inbox_daemon.config import Config
from inbox_daemon.config.models import configured, unlisted
from inbox_daemon.text import dumps

_ABOUT = """\
Find every fault of a file at once, before it is dropped.

The form of each line comes first, by the daemon's own rules. Then vLLM is asked what it would refuse: a prompt that is
longer than the model takes, a schema that cannot be compiled, tools without a parser, a number out of range. That takes
no GPU and no weights, but vLLM and the model's configuration and tokenizer on this host, and some seconds to start.
Where they are not to be had, a sentence says so, and the exit status is that of the form alone.
"""


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = _ABOUT
    verb.formatter_class = argparse.RawDescriptionHelpFormatter
    given.add(verb, "what messages call what comes on stdin; with a suffix where it comes compressed")
    verb.add_argument("--model", metavar="NAME", help="the model that will serve it, in place of engine.model")
    verb.add_argument("--form", action="store_true", help="look at the form alone, without vLLM")
    verb.add_argument("--json", action="store_true", help="one object a file, for programs")
    verb.set_defaults(go=go)


def faults_of(path: Path, read: Config, limit: int = 10_000, name: str = "") -> Faults:
    """Return what is wrong with a file's form. At most `limit` faults are kept, all are counted.

    Args:
        name: under which it is to be dropped where that says a model, so that no line need name one.

    Raises:
        OSError: there is no such file.
    """
    with form_of(path, read, limit, name) as form:
        return form.faults


def go(asked: argparse.Namespace) -> int:
    read = settings(asked)
    clean = True
    with given.read(asked.files, asked.name, otherwise="stdin") as some, Asking(read) as asking:
        for path, called in some:
            with form_of(path, read) as form:
                if not asked.json:
                    _say_kinds(called, form.faults.kinds)
                refused = Kinds()
                unknown = None if asked.form else _ask(read, asking, form, refused)
            faults = form.faults
            clean &= not (faults.count or faults.fatal)
            if asked.json:
                sys.stdout.buffer.write(dumps(_object(called, faults, asking, unknown)) + b"\n")
                continue
            _say_kinds(called, refused)
            _say_rest(called, faults)
            if unknown:
                show.say(f"{called}: {unknown}")
    return 0 if clean else 1


def _ask(read: Config, asking: Asking, form: Form, refused: Kinds) -> str | None:
    """Note what vLLM would refuse, in `refused` and among all faults; say what of that remains unknown, and why."""
    faults = form.faults
    left = faults.requests - faults.count
    if faults.fatal or not left:
        return None
    listed = configured(read)
    known = {lane for model in listed for lane in model.lanes}
    for model in [*listed, *(unlisted(read, name) for name in sorted(form.models - known))]:
        if not form.models & model.lanes:
            continue
        try:
            for number, fault in asking.refusals(model, form.requests(model.lanes), left):
                faults.note(number, fault)
                refused.note(number, fault)
        except NotAsked as error:
            return f"what vLLM would refuse is not known: {error}"
    if form.fetching:
        some = "1 request" if form.fetching == 1 else f"{form.fetching:,} requests"
        return f"what vLLM would refuse of {some} is not known: it would have to fetch media for that"
    return None


def report(path: Path, faults: Faults) -> None:
    """Say what was found of a file's form; faults that are equal are counted."""
    _say_kinds(path, faults.kinds)
    _say_rest(path, faults)


def _say_kinds(path: Path, kinds: Kinds) -> None:
    for sentence in kinds.sentences(path):
        show.say(sentence)


def _say_rest(path: Path, faults: Faults) -> None:
    if faults.fatal:
        show.say(f"{path}: {faults.fatal}")
    for sentence in faults.warnings:
        show.say(f"{path}: warning: {sentence}")
    good = faults.requests - faults.count
    show.say(f"{path}: {good:,} of {faults.requests:,} requests can run")


def _object(path: Path, faults: Faults, asking: Asking, unknown: str | None) -> dict[str, Any]:
    listed = [
        {
            "line": number,
            "code": fault.code,
            "message": fault.message,
            "param": fault.param,
            "custom_id": fault.custom_id,
        }
        for number, fault in faults.found
    ]
    return {
        "file": str(path),
        "requests": faults.requests,
        "faulty": faults.count,
        "fatal": faults.fatal,
        "faults": listed,
        "kinds": faults.kinds.objects(),
        "warnings": faults.warnings,
        "vllm": [{"version": info.version, "model": info.model} for info in asking.infos.values()],
        "unknown": unknown,
    }
