"""The methods on feature maps small enough to do by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcam.errors import MethodError
from onnxcam.methods import find_method, find_methods, fused, graph_methods, method, methods

from .graphs import run, run_attention, run_graph

# two channels, 2 rows, 3 columns; the channels' sums are 7 and 8
A = np.array([[[[1, 2, 0], [0, 1, 3]], [[2, 0, 1], [1, 4, 0]]]])
g = np.array([[[[6, 0, 0], [0, 0, 0]], [[-1, -1, -1], [-1, -1, -1]]]])
# both signs of A and g: one row, two places
SIGNED_A = np.array([[[[-1, -1]], [[3, 3]]]])
SIGNED_g = np.array([[[[2, -2]], [[1, 1]]]])
OF_A_MAP = [name for name, entry in graph_methods().items() if entry.target != "attention"]
P = np.array([[5, -1, -1], [-1, -1, -1]])
"""Centred: its mean is 0."""


def by_hand(expected: list[list[float]], name: str, *arguments: np.ndarray, **more: object) -> None:
    (got,) = run(name, *arguments, **more)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_gradcam_by_hand():
    # mean of g: 6/6 = 1 and -6/6 = -1, so the map is ReLU(A_0 - A_1)
    by_hand([[0, 2, 0], [0, 0, 3]], "gradcam", A, g)


def test_gradcam_plus_plus_by_hand():
    # w_0 = 6 · 36/(2·36 + 216·7) = 6/44, w_1 = 0: its gradients are negative
    by_hand((A[0, 0] * 6 / 44).tolist(), "gradcam++", A, g)
    # where 2 + g · ΣA = 2 - 1 · 2 = 0, the channel counts for nothing instead of infinity
    by_hand([[0, 0]], "gradcam++", np.array([[[[-4, 2]]]]), np.array([[[[1, 0]]]]))
    # small gradients keep their weight: 1e-4/(2 + 7e-4) each, which an epsilon of 1e-6 beside 2g² would take
    small = 6e-4 / (2 + 7e-4)
    by_hand((A[0, :1].sum(0) * small).tolist(), "gradcam++", A[:, :1], np.full((1, 1, 2, 3), 1e-4))


def test_xgradcam_by_hand():
    # w_0 = 6·1/7, w_1 = -8/8, so the map is ReLU(6/7 A_0 - A_1)
    by_hand([[0, 12 / 7, 0], [0, 0, 18 / 7]], "xgradcam", A, g)
    # a channel that sums to 0, up to rounding, counts for nothing instead of infinity
    by_hand([[0, 0, 0]], "xgradcam", np.array([[[[0.1, 0.2, -0.3]]]]), np.array([[[[1, 0, 0]]]]))


def test_shapleycam_by_hand():
    # H A is 4 and 2 everywhere: means of g - ½ H A are 1 - 2 and -1 - 1, so the map is ReLU(-A_0 - 2 A_1)
    bends = np.array([[[[4]], [[2]]]]) * np.ones((1, 2, 2, 3))
    by_hand(np.zeros((2, 3)).tolist(), "shapleycam", A, g, curvature=bends)
    # -4 and 2: 1 + 2 and -1 - 1, so it is ReLU(3 A_0 - 2 A_1)
    by_hand([[0, 6, 0], [0, 0, 9]], "shapleycam", A, g, curvature=bends * [[[[-1]], [[1]]]])
    # a score that does not bend
    by_hand([[0, 2, 0], [0, 0, 3]], "shapleycam", A, g)


def test_hirescam_by_hand():
    # g_0 A_0 + g_1 A_1, and no ReLU
    by_hand([[6 - 2, 0, -1], [-1, -4, 0]], "hirescam", A, g)


def test_gradcam_elementwise_by_hand():
    # ReLU(2·-1) + ReLU(1·3) and ReLU(-2·-1) + ReLU(1·3)
    by_hand([[3, 5]], "gradcam-elementwise", SIGNED_A, SIGNED_g)


def test_layercam_by_hand():
    # 2·-1 + 1·3 and 0·-1 + 1·3
    by_hand([[1, 3]], "layercam", SIGNED_A, SIGNED_g)
    # 2·-1 and 0·-1: nothing speaks for the class
    by_hand([[0, 0]], "layercam", SIGNED_A[:, :1], SIGNED_g[:, :1])


def test_cam_by_hand():
    # 2·A_0 - A_1, and no ReLU
    by_hand([[0, 4, -1], [-1, -2, 6]], "cam", A, g, weights=np.array([[2, -1]]))
    # without a linear layer, the map of class 1 is channel 1
    by_hand([[2, 0, 1], [1, 4, 0]], "cam", A, g, explained=1)


def test_eigencam_by_hand():
    # both channels follow P, so the axis is (3, 4)/5, and the projection (9 + 16)/5 P; the mean, 7, is taken off
    by_hand((5 * P).tolist(), "eigencam", np.array([[3 * P, 4 * P + 7]]), g)
    # the axis is ±(-4, 3)/5; the channels' mean is -P/2, and the map goes with it
    by_hand((-5 * P).tolist(), "eigencam", np.array([[-4 * P, 3 * P]]), g)
    # the axis is ±(-4, 3, 3)/√34; the mean is 2/3 P, though the longest channel goes the other way
    by_hand((np.sqrt(34) * P).tolist(), "eigencam", np.array([[-4 * P, 3 * P, 3 * P]]), g)


def test_eigengradcam_by_hand():
    # as eigencam on g · A = (3P, 4P), then on (-3P, -4P)
    by_hand((5 * P).tolist(), "eigengradcam", np.array([[3 * P, 2 * P]]), np.ones((1, 2, 1, 1)) * [[[[1]], [[2]]]])
    by_hand((-5 * P).tolist(), "eigengradcam", np.array([[3 * P, 4 * P]]), np.full((1, 2, 2, 3), -1))


def test_segeigencam_by_hand():
    # on |g| · A = (3P, 4P); of -P the value farthest from 0, -5, becomes positive
    for s in (1, -1):
        by_hand((5 * P).tolist(), "segeigencam", s * np.array([[3 * P, 4 * P]]), np.full((1, 2, 2, 3), -1))


def test_kpcacam_by_hand():
    # one channel, 1 and -1: the kernel is tanh(2) on the diagonal and tanh(0) beside it, centred ±tanh(2)/2 = ±d;
    # its eigenvalue is 2d with (1, -1)/√2, so the map is √d (1, -1)
    root = np.sqrt(np.tanh(2) / 2)
    by_hand([[root, -root]], "kpcacam", np.array([[[[4, 2]]]]), np.zeros((1, 1, 1, 2)))


def test_fem_by_hand():
    # channel 0: mean 1, σ = √5, and 6 > 1 + 2·2.24 at 1 of 6 places; channel 1: mean 4/3, σ = 1.37, none above 4.08;
    # channel 2 is the same everywhere, so nothing stands out in it
    peak, flat = np.array([[0, 6, 0], [0, 0, 0]]), np.full((2, 3), 0.1)
    by_hand((peak / 6).tolist(), "fem", np.array([[peak, A[0, 1], flat]]), np.zeros((1, 3, 2, 3)))


def test_random_by_hand():
    # the first two numbers of the generator are 0.63696… and 0.26978…, and a weight is twice that less 1
    expected = np.maximum(0.2739233746 * A[0, 0] - 0.4604265724 * A[0, 1], 0)
    by_hand(expected.tolist(), "random", A, g)


def test_the_picture_has_one_map_by_hand():
    # the strongest channel, whatever its sign: max(|6|, |-1|) at the first place, max(|0|, |-1|) elsewhere
    for name in ("saliency", "guided-backprop", "deconvolution"):
        by_hand([[6, 1, 1], [1, 1, 1]], name, A, g)
    # 6·1 - 1·2, then -A_1: the sum over channels, with its sign
    by_hand([[4, 0, -1], [-1, -4, 0]], "input-x-gradient", A, g)
    # ReLU(A_0 - A_1), as gradcam above, times the strongest channel
    by_hand([[0, 2, 0], [0, 0, 3]], "guided-gradcam", A, g)


@pytest.mark.parametrize("open_sizes", [False, True])
def test_fullgrad_by_hand(open_sizes):
    # the picture's share is |x · g| = |(1, -2, 0)|, scaled (1/2, 1, 0)
    x, dx = np.array([[[[1, 2, 4]]]]), np.array([[[[1, -1, 0]]]])
    by_hand([[0.5, 1, 0]], "fullgrad", x, dx, open_sizes=open_sizes)
    # a bias of two channels, |(1, -3)| and |(2, 2)|: scaled (0, 1) and, being flat, (0, 0); enlarged (0, 1/2, 1);
    # another of the same size, |(5, 5 + 1)|, adds the same: (1/2, 1, 0) + (0, 1, 2) less its smallest, 1/2
    biases = [np.array([[[[1, -3]], [[-2, 2]]]]), np.array([[[[5, 6]]]])]
    by_hand([[0, 1.5, 1.5]], "fullgrad", x, dx, biases=biases, open_sizes=open_sizes)
    # and one as large as the picture: + (1, 0, 0)
    by_hand([[0, 0.5, 0.5]], "fullgrad", x, dx, biases=[*biases, np.array([[[[-9, 3, 3]]]])], open_sizes=open_sizes)


def test_ablationcam_by_hand():
    # y = 2·7 - 8 = 6; without channel 0 it is -8, without channel 1 14: the weights are 14/6 and -8/6
    weights = np.array([[2, -1]])
    by_hand([[0, 28 / 6, 0], [0, 0, 7]], "ablationcam", A, g, weights=weights)
    # y = -6: it is 8 without channel 0, and -14 without channel 1, so what speaks for the class is channel 1
    by_hand([[2 / 6, 0, 8 / 6], [8 / 6, 18 / 6, 0]], "ablationcam", A, g, weights=-weights)
    # a score of 0 has no shares
    by_hand(np.zeros((2, 3)).tolist(), "ablationcam", A, g, weights=np.array([[8, -7]]))


def test_reciprocam_by_hand():
    # the places alone score 2·A_0 - A_1, the lowest of them -2
    by_hand([[2, 6, 1], [1, 0, 8]], "reciprocam", A, g, weights=np.array([[2, -1]]))


def test_vitreciprocam_by_hand():
    # of one channel, 16 at the middle of a row of three: ¼ · 16 remains around it, ⅛ · 16 around its neighbours
    row, column = np.array([[[[0, 16, 0]]]]), np.array([[[[0], [16], [0]]]])
    by_hand([[0, 2, 0]], "vitreciprocam", row, g)
    by_hand([[0], [2], [0]], "vitreciprocam", column, g)
    # and diagonally 1/16 · 16, with 0 two places away
    corner = np.zeros((1, 1, 3, 3))
    corner[..., 0, 0] = 16
    by_hand([[4, 2, 0], [2, 1, 0], [0, 0, 0]], "vitreciprocam", corner, g)


def test_rollout_by_hand():
    # a class token and two places; the first layer has two heads
    first = [[[1, 0, 0], [0, 0, 1], [0, 1, 0]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]]
    last = [[[0, 1, 0], [0, 1, 0], [0, 0, 1]]]
    # the class token's row: (1, 0, 0), and behind the last layer ½ (0, 1, 0) + ½ (1, 0, 0) = (½, ½, 0);
    # the first layer's mean has the rows (1, 0, 0) and (0, ½, ½): ½ (½, ¼, ¼) + ½ (½, ½, 0) = (½, ⅜, ⅛)
    layers = [np.array([first]), np.array([last])]
    np.testing.assert_allclose(run_attention("rollout", layers, grid=(1, 2), read=[0]), [[[3 / 8, 1 / 8]]])
    # the mean of the places: (0, ½, ½), which the last layer keeps, and the first: ½ (0, ½, ½) + ½ (0, ½, ½)
    np.testing.assert_allclose(run_attention("rollout", layers, grid=(1, 2), read=[1, 2]), [[[0.5, 0.5]]])
    # without a class token, three places in a column: (1, 0, 0) as above
    got = run_attention("rollout", layers, grid=(3, 1), read=[0], extra_tokens=0)
    np.testing.assert_allclose(got, [[[0.5], [3 / 8], [1 / 8]]])


def test_legrad_by_hand():
    # a class token and two places; what is negative is left out, and the columns are averaged over heads and rows:
    # (2 + 4, 1 + 3) / 6 of two heads, and (3, 6) / 3 of one head; then over both layers: (1 + 1) / 2, (2/3 + 2) / 2
    first = [[[9, 2, 0], [9, -5, 1], [9, 0, 0]], [[-9, 0, 3], [-9, 4, -1], [-9, 0, 0]]]
    last = [[[0, 3, 6], [0, 0, -2], [0, -1, 0]]]
    got = run_attention("legrad", [np.array([first]), np.array([last])], grid=(1, 2))
    np.testing.assert_allclose(got, [[[1, 4 / 3]]], rtol=1e-6)


def test_finercam_and_refinecam_are_others_at_one_layer():
    np.testing.assert_array_equal(run("finercam", A, g), run("gradcam", A, g))
    np.testing.assert_array_equal(run("refinecam", A, g), run("gradcam++", A, g))


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [("mean", [0.5, 0.125, 0.375, 0.75]), ("max", [1, 0.25, 0.75, 1]), ("product", [0, 0, 0, 0.5])],
)
def test_layers_are_fused_by_hand(fusion, expected):
    # (0, 4) becomes (0, 1), and at the centres of four places 0, 1/4, 3/4, 1; (2, 0, 0, 1) becomes (1, 0, 0, 1/2)
    maps = {"a": np.float32([[[0, 4]]]), "b": np.float32([[[2, 0, 0, 1]]])}
    got = run_graph(lambda op, x: fused(op, [x["a"], x["b"]], fusion), maps)
    np.testing.assert_allclose(got, [[expected]], atol=1e-7)


def test_a_flat_or_negative_layer_adds_nothing():
    maps = {"a": np.float32([[[-3, -4]]]), "b": np.float32([[[0, 0, 2, 1]]])}
    got = run_graph(lambda op, x: fused(op, [x["a"], x["b"]], "max"), maps)
    np.testing.assert_allclose(got, [[[0, 0, 1, 0.5]]])


def test_eigen_smooth_takes_the_component_instead_of_the_sum():
    # the weighted channels of gradcam with g = 1 are (3P, 4P): their sum is 7P, their first component 5P
    channels = np.array([[3 * P, 4 * P]])
    by_hand((7 * P.clip(min=0)).tolist(), "gradcam", channels, np.ones((1, 2, 2, 3)))
    by_hand((5 * P.clip(min=0)).tolist(), "gradcam", channels, np.ones((1, 2, 2, 3)), eigen_smooth=True)


@pytest.mark.parametrize("name", OF_A_MAP)
def test_eigen_smooth_changes_those_that_say_so(name):
    rng = np.random.default_rng(3)
    x, dx = np.abs(rng.standard_normal((1, 4, 5, 3))), rng.standard_normal((1, 4, 5, 3))
    weights = np.ones((1, 4))
    plain, smooth = (run(name, x, dx, weights=weights, eigen_smooth=on) for on in (False, True))
    assert np.array_equal(plain, smooth) is not methods()[name].smooths


@settings(max_examples=20, deadline=None)
@given(channels=st.integers(1, 9), height=st.integers(1, 6), width=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
def test_behind_pooling_and_a_linear_layer_four_methods_are_one(channels, height, width, seed):
    rng = np.random.default_rng(seed)
    activations = np.maximum(rng.standard_normal((2, channels, height, width)), 0)
    weights = rng.standard_normal((2, channels))
    gradients = np.broadcast_to(weights[:, :, None, None] / (height * width), activations.shape)
    cam = run("cam", activations, gradients, weights=weights) / (height * width)
    scale = np.abs(cam).max() + 1e-6
    np.testing.assert_allclose(run("hirescam", activations, gradients), cam, atol=1e-5 * scale)
    for name in ("gradcam", "xgradcam"):
        np.testing.assert_allclose(run(name, activations, gradients), np.maximum(cam, 0), atol=1e-5 * scale)


@pytest.mark.parametrize("name", OF_A_MAP)
@pytest.mark.parametrize("kind", ["zero", "flat", "large", "small"])
def test_no_map_has_a_value_that_is_no_number(name, kind):
    rng = np.random.default_rng(0)
    x, dx = np.abs(rng.standard_normal((1, 4, 3, 5))), rng.standard_normal((1, 4, 3, 5))
    x, dx = {"zero": (0 * x, 0 * dx), "flat": (0 * x + 3, dx), "large": (x * 1e12, dx), "small": (x, dx * 1e-20)}[kind]
    got = run(name, x, dx, weights=np.ones((1, 4)))
    assert np.isfinite(got).all()
    if kind == "zero":
        assert not got.any()
    if kind == "flat" and methods()[name].needs == "activations":
        np.testing.assert_allclose(got, got.flat[0], rtol=1e-6, err_msg="a flat map has no places")


@pytest.mark.parametrize("name", OF_A_MAP)
def test_open_sizes_give_the_same_map(name):
    rng = np.random.default_rng(1)
    x, dx = np.abs(rng.standard_normal((2, 4, 5, 3))), rng.standard_normal((2, 4, 5, 3))
    known, unknown = (run(name, x, dx, weights=np.ones((2, 4)), open_sizes=on) for on in (False, True))
    np.testing.assert_allclose(unknown, known, rtol=1e-4, atol=1e-5)


def test_every_method_states_equation_paper_and_cost():
    for name, entry in methods().items():
        assert entry.name == name
        assert entry.equation
        assert entry.paper
        assert entry.cost
        assert entry.summary.endswith(".")


def test_names_are_found_or_refused():
    with pytest.raises(MethodError, match="no method 'gradcams'; did you mean 'gradcam'"):
        find_method("gradcams")
    with pytest.raises(MethodError, match="'fem' is named twice"):
        find_methods(["fem", "cam", "fem"])
    with pytest.raises(MethodError, match=r"'rise' runs the model on changed pictures: .* 'onnxcam image"):
        find_methods(["cam", "rise"])
    with pytest.raises(ValueError, match="registered already"):
        method("cam", equation="", paper="", needs="head")(lambda at: at.activations)


def test_what_the_layer_cannot_carry_is_refused():
    with pytest.raises(MethodError, match=r"2450 of them \(at most 2048\): choose a later layer"):
        run("kpcacam", np.zeros((1, 2, 49, 50)), g)
    with pytest.raises(MethodError, match="a single channel in this model, with nothing to smooth"):
        run("cam", A, g, eigen_smooth=True)
