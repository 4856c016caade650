"""`inbox-daemon tune`: which engine settings are fastest on this host for this model and requests like a file's.

Starts one engine after another on a sample of the file and changes nothing: no spool, no running daemon, no settings.
The fastest ones are written where the user says.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from rich.table import Table
from rich.text import Text

from inbox_daemon.cli import preflight, show
from inbox_daemon.cli.exits import INTERRUPTED
from inbox_daemon.cli.settings import settings
from inbox_daemon.cli.tune import measure
from inbox_daemon.cli.tune.climb import Trial, axes, climb, winner
from inbox_daemon.config import Config
from inbox_daemon.config.models import configured
from inbox_daemon.engine.open import engine_of
from inbox_daemon.engine.workers import Workers
from inbox_daemon.records import Request
from inbox_daemon.request.reading import rules_of
from inbox_daemon.text import shown, toml, toml_key


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = __doc__
    verb.add_argument("file", type=Path, metavar="FILE", help="a batch file as users drop it")
    verb.add_argument("--model", metavar="PATH_OR_NAME", help="the model to serve, as vLLM takes it")
    verb.add_argument("--requests", type=_positive, default=2000, metavar="N", help="of the sample; default 2000")
    verb.add_argument("--minutes", type=_positive, default=20, metavar="M", help="for everything; default 20")
    verb.add_argument(
        "--quantization", action="append", default=[], metavar="METHOD", help="try this too (it changes the answers)"
    )
    verb.add_argument("--write", type=Path, metavar="NEW_FILE", help="write the fastest settings there, as TOML")
    verb.add_argument("--json", action="store_true", help="one object at the end, for programs")
    verb.set_defaults(go=go)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def go(given: argparse.Namespace) -> int:
    read = settings(given)
    preflight.demand(read, preflight.model)
    if given.write and given.write.exists():
        raise FileExistsError(f"{given.write} exists and is left as it is: name a new file with --write")
    if given.write and not os.access(given.write.resolve().parent, os.W_OK | os.X_OK):  # before minutes are spent
        raise OSError(f"{given.write}: its folder is not there or not yours to write to: name another with --write")
    requests = measure.sample(given.file, given.requests, rules_of(read))
    tuning = Tuning(read, requests, time.monotonic() + 60 * given.minutes, quiet=given.json)
    interrupted = False
    try:
        tuning.run(given.quantization)
    except KeyboardInterrupt:
        interrupted = True
    best = winner(tuning.trials)
    if given.json:
        sys.stdout.buffer.write(orjson.dumps(tuning.told(best), option=orjson.OPT_INDENT_2) + b"\n")
    elif tuning.trials:
        show.console.print(_table(tuning.trials, best))
    if best and given.write:
        with given.write.open("x", encoding="utf-8") as file:
            file.write(fragment(read, best, tuning.trials[0], f"{len(requests)} requests of {shown(given.file.name)}"))
    if interrupted:
        return INTERRUPTED
    return 0 if best else 1


class Tuning:
    """The trials of one call.

    Args:
        deadline: monotonic seconds; no engine is started that would not be through by then, going by the slowest.
    """

    def __init__(self, read: Config, requests: list[Request], deadline: float, quiet: bool) -> None:
        self.trials: list[Trial] = []
        self.out_of_time = False
        self._read, self._requests, self._deadline, self._quiet = read, requests, deadline, quiet
        self._model = configured(read)[0]

    def run(self, quantizations: list[str]) -> None:
        """Raises KeyboardInterrupt; what was measured until then is in `trials`."""
        steps = climb(axes(len(self._requests), quantizations))
        changed = next(steps)
        while True:
            if time.monotonic() + self._longest() > self._deadline:
                self.out_of_time = True
                self._say("no time is left for another engine: --minutes gives more")
                return
            trial = self._through(changed)
            self.trials.append(trial)
            self._say(_line(trial))
            try:
                changed = steps.send(trial)
            except StopIteration:
                return

    def _through(self, changed: Mapping[str, Any]) -> Trial:
        self._say(f"{_words(changed)}: …")
        engine = replace(self._model.engine, args=self._model.engine.arguments | dict(changed))
        model = replace(self._model, engine=engine)
        best = winner(self.trials)
        seconds = best.seconds if best else 0.0
        make = partial(engine_of, self._read, Workers(spares=False), model, 1)
        return measure.through(make, changed, self._requests, seconds, self._deadline)

    def _longest(self) -> float:
        return max((trial.load_seconds + trial.seconds for trial in self.trials), default=0.0)

    def _say(self, line: str) -> None:
        if not self._quiet:
            show.say(line)

    def told(self, best: Trial | None) -> dict[str, Any]:
        """What --json says."""
        return {
            "model": self._model.name,
            "requests": len(self._requests),
            "out_of_time": self.out_of_time,
            "trials": [asdict(trial) | {"ratio": _ratio(trial, self.trials[0])} for trial in self.trials],
            "fastest": dict(best.changed) if best else None,
        }


def fragment(read: Config, best: Trial, default: Trial, sample: str) -> str:
    """Return `[engine.args]` whole: the user's own arguments and the fastest ones; or those of the model's table."""
    today = datetime.now(UTC).date()
    about = f"inbox-daemon tune, {today}: {_ratio(best, default):.2f} times the speed of the settings before, {sample}"
    model = configured(read)[0]
    own = read.model[model.name].args if model.table else read.engine.args
    args = dict(own) | dict(best.changed)
    lines = [f"# {about}", model.said_of_args, *(f"{toml_key(name)} = {toml(value)}" for name, value in args.items())]
    return "\n".join(lines) + "\n"


# -- for people


def _ratio(trial: Trial, default: Trial) -> float:
    first = default.requests_per_second
    return round(trial.requests_per_second / first, 3) if first else 0.0


def _words(changed: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in changed.items()) or "your settings"


def _line(trial: Trial) -> str:
    if trial.problem:
        return f"{_words(trial.changed)}: {trial.problem}"
    cut = ", ended early" if trial.cut else ""
    return f"{_words(trial.changed)}: {trial.requests_per_second:.1f} requests/s{cut}"


def _table(trials: list[Trial], best: Trial | None) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("settings", "requests/s", "tokens/s", "ratio", "load (s)", ""):
        table.add_column(heading, justify="left" if heading in ("settings", "") else "right")
    for trial in trials:
        numbers = ["", "", "", ""]
        if not trial.problem:
            rates = (f"{trial.requests_per_second:.1f}", f"{trial.tokens_per_second:,.0f}")
            numbers = [*rates, f"{_ratio(trial, trials[0]):.2f}", f"{trial.load_seconds:.0f}"]
        words = trial.problem or ("fastest" if trial is best else "ended early" if trial.cut else "")
        style = "red" if trial.problem else "green" if trial is best else ""
        table.add_row(Text(_words(trial.changed)), *numbers, Text(words, style=style))
    return table
