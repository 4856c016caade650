"""Figures of agreement, held against scikit-learn's and statsmodels' on the same data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import peers
import pytest

from inbox_daemon.compare import agreement

KINDS = 4


def labels(seed: int, places: int = 3_000) -> tuple[np.ndarray, np.ndarray]:
    """A truth, and one who is right in three of five."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, KINDS - 1, places)
    given = np.where(generator.random(places) < 0.6, truth, generator.integers(0, KINDS, places))
    return truth, given


@pytest.mark.parametrize("seed", range(5))
def test_agreement_kappa_accuracy_and_f1_are_scikit_learns(seed: int) -> None:
    truth, given = labels(seed)
    counts = agreement.table(truth, given, KINDS)
    assert agreement.share_equal(counts) == pytest.approx(peers.metrics().accuracy_score(truth, given), abs=1e-12)
    assert agreement.kappa(counts) == pytest.approx(peers.metrics().cohen_kappa_score(truth, given), abs=1e-12)
    expected = peers.metrics().f1_score(truth, given, average="macro", labels=np.unique(truth), zero_division=0)
    assert agreement.macro_f1(counts) == pytest.approx(expected, abs=1e-12)


def test_what_has_no_label_is_in_no_table() -> None:
    truth, given = labels(1)
    given[::3] = agreement.NONE
    labelled = given != agreement.NONE
    counts = agreement.table(truth, given, KINDS)
    assert counts.sum() == labelled.sum()
    assert agreement.kappa(counts) == pytest.approx(
        peers.metrics().cohen_kappa_score(truth[labelled], given[labelled]), abs=1e-12
    )


@pytest.mark.parametrize("models", [2, 3, 6])
def test_fleiss_kappa_is_statsmodels(models: int) -> None:
    codes = np.stack([labels(1)[0], *(labels(1, 3_000)[1] if n == 0 else labels(n)[1] for n in range(models - 1))])
    codes[0, :17] = agreement.NONE  # which takes these places out for all
    votes, _ = peers.raters().aggregate_raters(codes[:, 17:].T)
    assert agreement.fleiss(codes, KINDS) == pytest.approx(peers.raters().fleiss_kappa(votes), abs=1e-12)


@pytest.mark.parametrize(
    ("first", "second"), [(0, 0), (1, 0), (7, 12), (400, 600), (500, 501), (900, 1_300), (0, 2_000)]
)
def test_mcnemars_p_is_statsmodels(first: int, second: int) -> None:
    exact = first + second <= 1_000
    expected = (
        peers.tables().mcnemar([[0, first], [second, 0]], exact=exact, correction=True).pvalue
        if first + second
        else 1.0
    )
    assert agreement.mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def test_an_interval_by_counts_is_that_of_drawn_rows() -> None:
    truth, given = labels(3, 500)
    low, high = agreement.interval(agreement.table(truth, given, KINDS), agreement.share_equal)
    generator = np.random.default_rng(1)
    drawn = generator.integers(0, 500, (4_000, 500))
    by_rows = np.percentile((truth == given)[drawn].mean(1), (2.5, 97.5))
    assert (low, high) == pytest.approx(by_rows, abs=0.005)
    assert low < float((truth == given).mean()) < high


def test_the_same_counts_have_the_same_interval() -> None:
    counts = agreement.table(*labels(4), KINDS)
    assert agreement.interval(counts, agreement.kappa) == agreement.interval(counts, agreement.kappa)


def test_a_paired_difference_is_the_difference_of_accuracies_and_surer_than_two_of_their_own() -> None:
    truth, given = labels(5)
    better = np.where(np.random.default_rng(6).random(len(truth)) < 0.1, truth, given)  # right wherever `given` is
    difference, low, high = agreement.paired_difference(better == truth, given == truth)
    assert difference == pytest.approx((better == truth).mean() - (given == truth).mean())
    assert 0 < low < difference < high < difference + 0.02


def test_where_nothing_can_be_told_it_is_not_a_number() -> None:
    empty = agreement.table(np.array([agreement.NONE]), np.array([0]), 2)
    assert math.isnan(agreement.kappa(empty))
    assert all(math.isnan(end) for end in agreement.interval(empty, agreement.kappa))
    alike = agreement.table(np.zeros(9, np.int64), np.zeros(9, np.int64), 2)
    assert math.isnan(agreement.kappa(alike)), "chance alone explains that all say the same"
    assert math.isnan(agreement.fleiss(np.full((2, 3), agreement.NONE), 2))


def krippendorff(rows: np.ndarray, distance: Callable[[float, float], float]) -> float:
    """Krippendorff's alpha by the words of his definition: each pair of values of a place, and each of all places."""
    units = [[value for value in column if not np.isnan(value)] for column in rows.T]
    units = [unit for unit in units if len(unit) > 1]
    values = [value for unit in units for value in unit]
    observed = sum(distance(*pair) / (len(unit) - 1) for unit in units for pair in itertools.permutations(unit, 2))
    expected = sum(distance(*pair) for pair in itertools.permutations(values, 2)) / (len(values) - 1)
    return 1 - observed / expected


@pytest.mark.parametrize("models", [2, 3, 6])
def test_krippendorffs_alpha_is_that_of_its_definition_with_answers_missing(models: int) -> None:
    generator = np.random.default_rng(models)
    codes = np.stack([labels(1, 60)[n % 2] for n in range(models)])
    codes = np.where(generator.random(codes.shape) < 0.3, agreement.NONE, codes)
    rows = np.where(codes == agreement.NONE, np.nan, codes.astype(float))
    by_words = krippendorff(rows, lambda one, other: float(one != other))
    assert agreement.alpha(codes, KINDS) == pytest.approx(by_words, abs=1e-12)
    numbers = rows * 2.5 + 1e6
    by_words = krippendorff(numbers, lambda one, other: (one - other) ** 2)
    assert agreement.alpha_interval(numbers) == pytest.approx(by_words, abs=1e-9)


def test_krippendorffs_own_example_has_his_figures() -> None:
    said = ["*****3412113 3*3", "1*213343*******", "**2134 4*211 33*4"]
    codes = np.array([[-1 if c == "*" else int(c) for c in row.replace(" ", "")] for row in said])
    assert agreement.alpha(codes, 5) == pytest.approx(0.691, abs=5e-4)
    assert agreement.alpha_interval(np.where(codes < 0, np.nan, codes)) == pytest.approx(0.811, abs=5e-4)


def test_where_no_two_differ_alpha_is_not_a_number() -> None:
    assert math.isnan(agreement.alpha(np.zeros((3, 9), np.int64), 1))
    assert math.isnan(agreement.alpha_interval(np.full((2, 9), np.nan)))
    assert math.isnan(agreement.alpha(np.array([[0, -1], [-1, 1]]), 2)), "no place has two"


def test_cohens_kappa_without_a_table_is_scikit_learns() -> None:
    truth, given = labels(7)
    given[::5] = agreement.NONE
    there = given != agreement.NONE
    expected = peers.metrics().cohen_kappa_score(truth[there], given[there])
    assert agreement.cohen(truth, given, KINDS) == pytest.approx(expected, abs=1e-12)
    assert math.isnan(agreement.cohen(truth, np.full_like(given, agreement.NONE), KINDS))


def test_who_dissents_is_who_says_something_else_than_most_of_the_others() -> None:
    said = np.array([[1, 1, 1, 1, 2, 1], [1, 2, 2, 1, 3, 0], [1, 2, 3, 2, 3, 2], [1, 2, 4, 0, 0, 0]])
    found = agreement.dissents(said, said != 0)
    assert found.T.tolist() == [
        [False, False, False, False],  # all say the same
        [True, False, False, False],  # one against three
        [False, False, False, False],  # four words: nobody is against most
        [False, False, True, False],  # two alike, one not, one says nothing
        [True, False, False, False],
        [True, False, True, False],  # two against each other, each against all others
    ]
    alone = agreement.dissents(said, said != 0, least=2)
    assert not alone[:, 5].any() and alone[0, 1]
