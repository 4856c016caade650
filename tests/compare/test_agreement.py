"""Figures of agreement, held against scikit-learn's and statsmodels' on the same data."""

from __future__ import annotations

import math

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
