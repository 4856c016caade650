"""How far two answers agree, and how sure one can be of it: numbers out of counts. Pure; knows no files and no texts.

Labels are codes from 0; -1 stands for none. Each figure depends on a table of counts alone, so its interval is had by
drawing such tables anew, and not the thousands of rows behind them: the same interval, in milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int64]
Table = NDArray[np.float64]  # counts, rows x columns in the last two axes; before them any number of such tables
Figure = Callable[[Table], NDArray[np.float64]]

NONE = -1  # the code of an answer without a label

_DRAWS = 10_000
_AT_A_TIME = 2_000_000  # numbers held while tables are drawn
_EXACT = 1_000  # discordant pairs up to which McNemar's test is counted out


def table(rows: Codes, columns: Codes, kinds: int) -> Table:
    """Count how often each pair of labels occurs: kinds x kinds, over places where both have one."""
    both = (rows != NONE) & (columns != NONE)
    counted = np.bincount(rows[both] * kinds + columns[both], minlength=kinds * kinds)
    return counted.reshape(kinds, kinds).astype(np.float64)


def share_equal(counts: Table) -> NDArray[np.float64]:
    """Return the share on the diagonal: agreement of two models, or accuracy where rows are the truth."""
    with np.errstate(invalid="ignore"):
        return _floats(np.trace(counts, axis1=-2, axis2=-1) / counts.sum((-1, -2)))


def kappa(counts: Table) -> NDArray[np.float64]:
    """Cohen's kappa (1960): agreement beyond what chance would give; NaN where chance alone gives all of it."""
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = (counts.sum(-1) * counts.sum(-2)).sum(-1) / counts.sum((-1, -2)) ** 2
        return _floats((share_equal(counts) - expected) / (1 - expected))


def macro_f1(counts: Table) -> NDArray[np.float64]:
    """Return the mean F1 over the labels that the truth (rows) has; a label never given counts as 0."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    truth, given = counts.sum(-1), counts.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        each = np.where(truth > 0, 2 * hits / (truth + given), np.nan)
    occurring = (truth > 0).sum(-1)
    with np.errstate(invalid="ignore"):
        return _floats(np.nansum(each, -1) / occurring)


def interval(counts: Table, figure: Figure, *, draws: int = _DRAWS, seed: int = 0) -> tuple[float, float]:
    """Return the figure's 95 % interval by the bootstrap: of the drawn tables 2.5 % lie beyond each end.

    The same counts give the same interval. (NaN, NaN) where there is nothing to draw from.
    """
    flat = counts.reshape(-1)
    total = round(float(flat.sum()))
    if not total:
        return math.nan, math.nan
    held = flat > 0
    generator = np.random.default_rng(seed)
    found = []
    step = max(1, _AT_A_TIME // flat.size)
    for begin in range(0, draws, step):
        drawn = np.zeros((min(step, draws - begin), flat.size))
        drawn[:, held] = generator.multinomial(total, flat[held] / total, size=len(drawn))
        found.append(figure(drawn.reshape(-1, *counts.shape)))
    values = np.concatenate(found)
    values = values[~np.isnan(values)]
    if not len(values):
        return math.nan, math.nan
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def fleiss(codes: Codes, kinds: int) -> float:
    """Fleiss' kappa (1971) of several models, each a row of `codes`, over places where all have a label."""
    raters = len(codes)
    complete = codes[:, (codes != NONE).all(0)]
    votes = np.stack([(complete == kind).sum(0) for kind in range(kinds)], 1).astype(np.float64)
    if raters < 2 or not len(votes):
        return math.nan
    observed = ((votes**2).sum(1) - raters) / (raters * (raters - 1))
    by_chance = float(((votes.sum(0) / votes.sum()) ** 2).sum())
    return (float(observed.mean()) - by_chance) / (1 - by_chance) if by_chance < 1 else math.nan


def mcnemar(only_first: int, only_second: int) -> float:
    """Return McNemar's p (1947) for two models of which one alone was right so often: are they equally good?

    Counted out up to a thousand such pairs; beyond, chi-squared with Edwards' continuity correction.
    """
    pairs = only_first + only_second
    if pairs == 0:
        return 1.0
    if pairs <= _EXACT:
        tail: int = sum(math.comb(pairs, k) for k in range(min(only_first, only_second) + 1))
        return min(1.0, float(2 * tail / 2**pairs))
    squared = (abs(only_first - only_second) - 1) ** 2 / pairs
    return math.erfc(math.sqrt(squared / 2))


def paired_difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Return how much more often the first is right than the second, on the same requests, with its 95 % interval."""
    counts = table(first.astype(np.int64), second.astype(np.int64), 2)

    def difference(tables: Table) -> NDArray[np.float64]:
        return _floats((tables[..., 1, 0] - tables[..., 0, 1]) / tables.sum((-1, -2)))

    return (float(difference(counts)), *interval(counts, difference))


def _floats(values: object) -> NDArray[np.float64]:
    """Arithmetic of whole axes, whose type numpy does not tell."""
    return np.asarray(values, np.float64)
