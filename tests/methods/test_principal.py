"""The power iteration against NumPy's SVD."""

from __future__ import annotations

import numpy as np
import pytest

from .graphs import run


def component(x: np.ndarray) -> np.ndarray:
    """The first principal component of ``x`` [C, h, w] in float64, signed as the channels' mean."""
    rows = x.astype(np.float32).reshape(len(x), -1).astype(np.float64)
    rows -= rows.mean(1, keepdims=True)
    _, S, Vt = np.linalg.svd(rows, full_matrices=False)
    found = S[0] * Vt[0]
    return (found * np.sign(found @ rows.mean(0))).reshape(x.shape[1:])


def with_lengths(lengths: list[float], channels: int, height: int, width: int) -> np.ndarray:
    """A feature map whose principal components have ``lengths``; seeded."""
    rng = np.random.default_rng(5)
    U = np.linalg.qr(rng.standard_normal((channels, len(lengths))))[0]
    raw = rng.standard_normal((height * width, len(lengths)))
    V = np.linalg.qr(raw - raw.mean(0))[0]
    return (U * lengths @ V.T + 0.3).reshape(1, channels, height, width)


@pytest.mark.parametrize("shape", [(512, 7, 7), (5, 3, 4), (64, 28, 21), (3, 1, 7), (1, 5, 3), (2048, 7, 5)], ids=str)
@pytest.mark.parametrize("open_sizes", [False, True])
def test_it_is_the_first_component(shape, open_sizes):
    # batches too: each picture's own. The gaps of such maps are 0.01 and more, and 1e-6 / 0.01 is 1e-4
    A = np.maximum(np.random.default_rng(0).standard_normal((2, *shape)), 0)
    for got, x in zip(run("eigencam", A, A, open_sizes=open_sizes), A, strict=True):
        expected = component(x)
        assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("gap", [1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 0])
@pytest.mark.parametrize("channels", [512, 20])
def test_of_two_components_of_nearly_one_length_it_is_as_long_as_the_longer(gap, channels):
    lengths = [3.0, 3.0 * np.sqrt(1 - gap), 1.0]
    A = with_lengths(lengths, channels, 7, 7)
    (got,) = run("eigencam", A, A)
    assert np.linalg.norm(got) == pytest.approx(3, rel=1e-5)
    if gap >= 1e-3:
        expected = component(A[0])
        assert np.abs(got - expected).max() < 1e-5 / gap * np.abs(expected).max()
    np.testing.assert_array_equal(got, run("eigencam", A, A)[0], err_msg="always the same mixture")


@pytest.mark.parametrize("scale", [1e-12, 1, 1e12])
def test_it_grows_with_the_feature_map(scale):
    A = np.random.default_rng(2).standard_normal((1, 9, 4, 5))
    expected = component(A[0] * scale)
    np.testing.assert_allclose(run("eigencam", A * scale, A)[0], expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("spread", "shape"), [(0.3, (6, 5, 3)), (3, (6, 5, 3)), (1, (512, 7, 7)), (10, (4, 9, 7))])
def test_kernel_components_are_those_of_an_eigendecomposition(spread, shape):
    # a large spread saturates the kernel, which then has negative eigenvalues too
    A = np.random.default_rng(4).standard_normal((2, *shape)) * spread
    for got, x in zip(run("kpcacam", A, A), A, strict=True):
        rows = x.astype(np.float32).reshape(len(x), -1).T.astype(np.float64)
        rows -= rows.mean(0)
        kernel = np.tanh(rows @ rows.T / len(x) + 1)
        kernel -= kernel.mean(0)
        kernel -= kernel.mean(1, keepdims=True)
        values, vectors = np.linalg.eigh(kernel)
        expected = np.sqrt(values[-1]) * vectors[:, -1]
        expected *= np.sign(expected @ rows.mean(1))
        assert np.abs(got.ravel() - expected).max() < 1e-3 * np.abs(expected).max()
