from __future__ import annotations

import numpy as np

from onnxcam.exporter.comparison import relative_error


def test_the_error_is_relative_to_the_largest_value():
    assert relative_error(np.array([1.0, 2.5]), np.array([1.0, 2.0])) == 0.25
    assert relative_error(np.array([[0.5]]), np.array([[0.0]])) == 0.5


def test_not_a_number_counts_as_an_infinite_error():
    assert relative_error(np.array([1.0, np.nan]), np.array([1.0, 2.0])) == np.inf
    assert relative_error(np.zeros(2), np.zeros(3)) == np.inf
