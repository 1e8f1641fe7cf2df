"""Metrics against cases worked by hand, and against scipy where it has the same figure."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from adapters import metrics


def test_accuracy_and_macro_f1_by_hand():
    predicted, actual = [0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 2, 0]
    assert metrics.accuracy(predicted, actual) == pytest.approx(4 / 6)
    # class 0: hit 1 of 2 said, 2 true -> .5; class 1: 1 of 1, 2 -> 2/3; class 2: 2 of 3, 2 -> .8
    assert metrics.macro_f1(predicted, actual) == pytest.approx((0.5 + 2 / 3 + 0.8) / 3)


def test_ccc_by_hand():
    # y = x + 1: cov = var = 2/3, means differ by 1 -> (4/3) / (4/3 + 1) = 4/7
    assert metrics.ccc([1, 2, 3], [2, 3, 4]) == pytest.approx(4 / 7)
    assert metrics.ccc([1, 2, 3], [1, 2, 3]) == pytest.approx(1)
    assert metrics.ccc([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert metrics.ccc([1, 1], [1, 1]) == 0


def test_rank_figures_agree_with_scipy_under_ties():
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 5, 40), rng.integers(0, 4, 40)
    assert metrics.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert metrics.kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)
    assert metrics.pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)


def test_kendall_by_hand():
    # pairs: (1,2) up, (1,3) up, (2,3) down -> (2 - 1) / 3
    assert metrics.kendall([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)
    assert metrics.kendall([1, 1, 1], [1, 2, 3]) == 0


def test_ece_by_hand():
    p = [[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]]
    # bin .9: accuracy .5, gap .4; bin .6: accuracy 1, gap .4; each half of the rows
    assert metrics.ece(p, [0, 1, 1, 1]) == pytest.approx(0.4)
    assert metrics.ece([[1.0, 0.0]], [0]) == 0
    # a soft label gives the top class .7 of an annotator where the model is .9 sure
    assert metrics.ece([[0.9, 0.1]], [[0.7, 0.3]]) == pytest.approx(0.2)


def test_jsd_by_hand():
    assert metrics.jsd([[1, 0], [0.5, 0.5]], [[0, 1], [0.5, 0.5]]) == pytest.approx([1, 0])
    # p = (1, 0), q = (.5, .5), m = (.75, .25)
    want = (math.log2(4 / 3) + 0.5 * math.log2(2 / 3) + 0.5) / 2
    assert metrics.jsd([[1, 0]], [[0.5, 0.5]])[0] == pytest.approx(want)


def test_wilson_by_hand_and_against_scipy():
    low, high = metrics.wilson(8, 10)
    want = stats.binomtest(8, 10).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((want.low, want.high), abs=1e-4)
    assert metrics.wilson(0, 10)[0] == 0


def test_bootstrap_covers_and_is_repeatable():
    rng = np.random.default_rng(0)
    x = rng.normal(size=300)
    y = x + rng.normal(size=300)
    low, high = metrics.bootstrap(metrics.pearson, x, y, n=400)
    assert low < 1 / math.sqrt(2) < high
    assert high - low < 0.2
    assert (low, high) == metrics.bootstrap(metrics.pearson, x, y, n=400)


def test_temperature_recovers_the_planted_one():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(500, 5)) * 2
    q = metrics.softmax(z)
    assert metrics.fit_temperature(z * 3, q) == pytest.approx(3, rel=0.01)
    assert metrics.fit_temperature(z / 2, q) == pytest.approx(0.5, rel=0.01)


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="same length"):
        metrics.pearson([1, 2], [1])
    with pytest.raises(ValueError, match="same shape"):
        metrics.jsd([[1, 0]], [[1, 0, 0]])
    with pytest.raises(ValueError, match="hits"):
        metrics.wilson(3, 2)
    with pytest.raises(ValueError, match="one label per row"):
        metrics.ece([[1, 0]], [0, 1])
