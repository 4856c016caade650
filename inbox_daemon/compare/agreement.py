"""How far two answers agree, and how sure one can be of it: numbers out of counts. Pure; knows no files and no texts.

Labels are codes from 0; -1 stands for none. Each figure depends on a table of counts alone, so its interval is had by
drawing such tables anew, and not the thousands of rows behind them: the same interval, in milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

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


def cohen(rows: Codes, columns: Codes, kinds: int) -> float:
    """Return the kappa of two models' labels where there are too many kinds for a table of all pairs."""
    both = (rows != NONE) & (columns != NONE)
    first, second = rows[both], columns[both]
    if not len(first):
        return math.nan
    shares = [np.bincount(each, minlength=kinds) / len(first) for each in (first, second)]
    expected, observed = float(shares[0] @ shares[1]), float((first == second).mean())
    return (observed - expected) / (1 - expected) if expected < 1 else math.nan


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


def spread(said: NDArray[Any], spoken: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return for each place the share of the models that say something other than most do; 0 where they agree.

    Args:
        said: a row for each model: codes, digests or whatever is equal where two say the same.
        spoken: who says anything there.
    """
    votes = spoken.sum(0)
    return _floats(np.where(votes > 1, 1 - _agreeing(said, spoken).max(0) / np.maximum(votes, 1), 0.0))


def reach(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each place how far the models' highest number is from the lowest; NaN is no number."""
    apart = np.nanmax(numbers, 0, initial=-np.inf) - np.nanmin(numbers, 0, initial=np.inf)
    return _floats(np.nan_to_num(apart, neginf=0.0))


def dissents(said: NDArray[Any], spoken: NDArray[np.bool_], least: int = 1) -> NDArray[np.bool_]:
    """Say for each model and place whether it says something other than more than half of the others say alike.

    Args:
        least: how many of the others must say anything.
    """
    found = np.zeros(said.shape, np.bool_)
    agreeing = _agreeing(said, spoken)  # of `other` with `one` among them, who says something else where it matters
    for one in range(len(said)):
        votes = spoken.sum(0) - spoken[one]
        for other in range(len(said)):
            found[one] |= spoken[other] & (2 * agreeing[other] > votes) & (said[other] != said[one])
        found[one] &= spoken[one] & (votes >= least)
    return found


def _agreeing(said: NDArray[Any], spoken: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return for each model and place how many say the same there, itself among them."""
    return np.stack([((said == one) & spoken).sum(0) for one in said])


def alpha(codes: Codes, kinds: int) -> float:
    """Krippendorff's alpha for labels (2011), over places where two models at least have one; NaN if none differ."""
    there = codes != NONE
    counted = np.bincount(codes[:, there.sum(0) > 1][there[:, there.sum(0) > 1]], minlength=kinds).astype(np.float64)
    total = counted.sum()
    by_chance = (total**2 - (counted**2).sum()) / (total - 1) if total else 0.0
    return _alpha(there, lambda first, second: codes[first] != codes[second], by_chance)


def alpha_interval(numbers: NDArray[np.float64]) -> float:
    """Krippendorff's alpha for numbers, whose distance squared is how far two are apart; NaN is no number."""
    there = ~np.isnan(numbers)
    values = numbers[:, there.sum(0) > 1][there[:, there.sum(0) > 1]]
    total = len(values)
    by_chance = float(2 * total * ((values - values.mean()) ** 2).sum() / (total - 1)) if total else 0.0
    return _alpha(there, lambda first, second: (numbers[first] - numbers[second]) ** 2, by_chance)


def _alpha(there: NDArray[np.bool_], apart: Callable[[int, int], NDArray[Any]], by_chance: float) -> float:
    """Return 1 - observed / expected disagreement, both summed over ordered pairs and not yet divided by all values."""
    if not by_chance:
        return math.nan
    weight = 1 / np.maximum(there.sum(0) - 1, 1)
    observed = 0.0
    for first in range(len(there)):
        for second in range(first):
            both = there[first] & there[second]
            observed += 2 * float((apart(first, second) * weight)[both].sum())
    return 1 - observed / float(by_chance)


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
