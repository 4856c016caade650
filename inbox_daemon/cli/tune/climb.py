"""Which setting `inbox-daemon tune` tries next: one axis after another, uphill from what the engine chooses by itself.

Pure: yields settings and is told what came of them. Knows no engine and no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ENOUGH = 1.03  # times the best rate so far; a smaller gain is noise

Climb = Generator[dict[str, Any], "Trial", None]


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one start of the engine.

    Attributes:
        changed: the engine arguments that differ from the user's own.
        effective: what the engine says its settings are (`EngineInfo.settings`); {} where it did not load.
        cut: it was so slow that it was ended before the sample's end.
        problem: why there is no rate, or "".
        load_seconds, seconds: to load, and to compute what it computed.
    """

    changed: Mapping[str, Any]
    effective: Mapping[str, Any] = field(default_factory=dict)
    requests_per_second: float = 0.0
    tokens_per_second: float = 0.0
    load_seconds: float = 0.0
    seconds: float = 0.0
    cut: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Scale:
    """A number to double, then to halve where doubling brought nothing; between two bounds."""

    name: str
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Choice:
    """Values to try, each once."""

    name: str
    values: tuple[str, ...]


Axis = Scale | Choice


def axes(sample: int, quantizations: Sequence[str]) -> list[Axis]:
    """Return what is tried, what matters most first. A queue shorter than `max_num_seqs` would measure nothing."""
    found: list[Axis] = [
        Scale("max_num_seqs", 16, max(16, sample // 2)),
        Scale("max_num_batched_tokens", 1024, 65_536),
        Choice("kv_cache_dtype", ("fp8",)),
    ]
    return [*found, Choice("quantization", tuple(quantizations))] if quantizations else found


def climb(along: Sequence[Axis]) -> Climb:
    """Yield what to change of the user's own settings: nothing first, then axis by axis from the best so far.

    Must be sent a Trial for each. Ends at once where the user's own settings do not run.
    """
    best = yield {}
    if best.problem:
        return
    for axis in along:
        if isinstance(axis, Choice):
            for value in axis.values:
                if best.effective.get(axis.name) != value:
                    best = _better(best, (yield {**best.changed, axis.name: value}))
            continue
        start = best
        best = yield from _walk(axis, best, lambda value: 2 * value)
        if best is start:
            best = yield from _walk(axis, best, lambda value: value // 2)


def _walk(axis: Scale, best: Trial, step: Callable[[int], int]) -> Generator[dict[str, Any], Trial, Trial]:
    """Go one way as long as it gets better."""
    while isinstance(now := best.effective.get(axis.name), int) and axis.least <= step(now) <= axis.most:
        trial = yield {**best.changed, axis.name: step(now)}
        if _better(best, trial) is best:
            break
        best = trial
    return best


def _better(best: Trial, trial: Trial) -> Trial:
    faster = not trial.problem and trial.requests_per_second >= ENOUGH * best.requests_per_second
    return trial if faster else best


def winner(trials: Sequence[Trial]) -> Trial | None:
    """Return the fastest one as `climb` judges, or None where nothing ran."""
    ran = [trial for trial in trials if not trial.problem]
    if not ran:
        return None
    best = ran[0]
    for trial in ran[1:]:
        best = _better(best, trial)
    return best
