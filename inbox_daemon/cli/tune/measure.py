"""A sample of a batch file through one engine with one setting: how fast, or why not.

Owns the engine it starts, which is gone when `through` returns. Knows nothing of spools: answers are counted and
thrown away.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from inbox_daemon.cli.tune.climb import Trial
from inbox_daemon.engine import Engine, alone
from inbox_daemon.errors import ConfigError, EngineDied, Rejected
from inbox_daemon.records import Outcome, Request
from inbox_daemon.request.line import read_line
from inbox_daemon.request.reading import Rules
from inbox_daemon.spool import source
from inbox_daemon.text import shown

_RUN = 64  # consecutive lines of a sample, so that neighbours that share a prefix stay neighbours
_WARM_UP = 16  # requests before the clock starts: what a fresh engine compiles at its first ones is not its speed
_PATIENCE = 2.0  # times what the best setting took; then it is the slower one, however it would go on


def sample(path: Path, wanted: int, rules: Rules) -> list[Request]:
    """Return about `wanted` requests of the file that can run: runs of consecutive lines from all over it, in order.

    Raises:
        Rejected: the file is no batch, or none of these lines can run.
    """
    fd = source.open_regular(path, follow=True)
    try:
        lines = _sampled(_lines(source.blocks(fd, path, rules.inbox.max_file_bytes)), wanted)
    finally:
        os.close(fd)
    good = [(number, line) for number, line in lines if read_line(line, rules.model_fault, rules.refusal).fault is None]
    if not good:
        name = shown(path.name)
        raise Rejected("no_request", f"{name}: none of {len(lines)} lines can run; inbox-daemon check {name} says why")
    return [Request(at, f"tune-{at}", number, line) for at, (number, line) in enumerate(good)]


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _sampled(lines: Iterable[bytes], wanted: int) -> list[tuple[int, bytes]]:
    """Draw runs of lines with equal chances (reservoir sampling), the same ones each time; numbers are 1-based."""
    chance = random.Random(0)
    runs: list[list[tuple[int, bytes]]] = []
    room = -(-wanted // _RUN)
    run: list[tuple[int, bytes]] = []
    for number, line in enumerate(lines, 1):
        if (number - 1) % _RUN == 0:
            run = []
            at = (number - 1) // _RUN
            place = at if at < room else chance.randrange(at + 1)
            if at < room:
                runs.append(run)
            elif place < room:
                runs[place] = run
        if line.strip():
            run.append((number, line))
    return sorted(pair for run in runs for pair in run)[:wanted]


def through(
    make: Callable[[], Engine], changed: Mapping[str, Any], requests: Sequence[Request], best: float, deadline: float
) -> Trial:
    """Start an engine, have it answer the requests, end it; a dead engine is a Trial that says so.

    Args:
        make: starts the engine with `changed`.
        best: seconds that the best setting so far took, 0 for the first.
        deadline: monotonic seconds.
    """
    began, load = time.monotonic(), 0.0
    try:
        engine = make()
    except OSError as error:
        return Trial(changed, problem=f"it cannot be started: {error}")
    try:
        while engine.info is None:
            _receive(engine, deadline)
        load, effective = time.monotonic() - began, engine.info.settings
        _answer(engine, requests[:_WARM_UP], deadline)
        began = time.monotonic()
        limit = min(deadline, began + _PATIENCE * best) if best else deadline
        outcomes, over = _answer(engine, requests, limit)
        seconds = time.monotonic() - began
    except (EngineDied, ConfigError, TimeoutError) as ended:
        return Trial(changed, load_seconds=load or time.monotonic() - began, problem=str(ended))
    finally:
        alone.end(engine)
    errors = [outcome for outcome in outcomes if outcome.is_error]
    if not outcomes or 2 * len(errors) > len(outcomes):
        why = f"{len(errors)} of {len(outcomes)} requests ended as errors" if outcomes else "no answer in time"
        return Trial(changed, effective, load_seconds=load, seconds=seconds, problem=why)
    tokens = sum(outcome.input_tokens + outcome.output_tokens for outcome in outcomes)
    return Trial(changed, effective, len(outcomes) / seconds, tokens / seconds, load, seconds, cut=not over)


def _answer(engine: Engine, requests: Sequence[Request], deadline: float) -> tuple[list[Outcome], bool]:
    """Return what was answered by the deadline, and whether that is everything. Raises EngineDied."""
    outcomes: list[Outcome] = []
    sent = 0
    while len(outcomes) < len(requests):
        if room := engine.room():
            engine.send(requests[sent : sent + room])
            sent = min(len(requests), sent + room)
        try:
            outcomes += _receive(engine, deadline)
        except TimeoutError:
            return outcomes, False
    return outcomes, True


def _receive(engine: Engine, deadline: float) -> list[Outcome]:
    if time.monotonic() >= deadline:
        raise TimeoutError("not loaded in the time that was left")
    return alone.receive(engine)
