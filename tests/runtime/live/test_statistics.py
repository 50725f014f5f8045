"""Ages and rates, with numbers one can check by hand."""

from __future__ import annotations

import pytest

from onnxcam.runtime.live.statistics import Ages, Rate


def test_quantiles_of_ages_to_the_millisecond():
    ages = Ages()
    assert ages.quantile(0.5) is None
    for milliseconds in range(1, 101):
        ages.add(milliseconds / 1e3)
    assert (ages.quantile(0.5), ages.quantile(0.99), ages.quantile(1.0)) == (0.05, 0.099, 0.1)
    ages.add(3600)  # longer than is told apart
    assert ages.quantile(1.0) == 10.0
    assert ages.count == 101


def test_the_rate_is_that_of_the_last_two_seconds():
    rate = Rate(span=2.0)
    assert rate.add(0.0) == 0.0
    assert rate.add(0.5) == pytest.approx(2)
    for step in range(2, 9):
        last = rate.add(step / 2)
    assert last == pytest.approx(2)
    assert rate.add(60.0) == 0.0  # after a long pause it begins anew
    assert rate.add(60.1) == pytest.approx(10)
