"""Methods on changed pictures, against numbers that can be had by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest

import onnxcam
from onnxcam import Perturbation
from onnxcam.contract import LayerInfo
from onnxcam.errors import InputError, LayerError, MethodError
from onnxcam.methods import methods
from onnxcam.runtime.perturbation import METHODS
from onnxcam.runtime.perturbation.subject import as_places

from .small_models import CLASSES, HEIGHT, PREPROCESS, SEED, WIDTH, attached, picture

SIZE = (3, HEIGHT, WIDTH)
SQUARE_WEIGHTS = np.random.default_rng(SEED).standard_normal((CLASSES, *SIZE))


def values(image: np.ndarray) -> np.ndarray:
    """The model's input [3, H, W], RGB."""
    return image[..., ::-1].transpose(2, 0, 1).astype(np.float64)


def explained(path, image, method: str, *, class_index=0, **options: object) -> onnxcam.Explanation:
    with onnxcam.load(path) as model:
        return model.explain(image, class_index=class_index, method=method, perturbation=Perturbation(**options))


def score(path, tensor: np.ndarray, index: int) -> float:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return float(session.run(["logits"], {"image": tensor[None].astype(np.float32)})[0][0, index])


def test_both_registries_name_the_same_methods():
    described = {name: entry.reads for name, entry in methods().items() if entry.needs == "pictures"}
    assert described == {name: entry.reads for name, entry in METHODS.items()}
    for name, entry in METHODS.items():
        assert callable(entry.load())
        if entry.samples:
            assert methods()[name].cost.startswith(f"{entry.samples} runs")


# means of the halves are red 1 and 3, green 4 and 2, blue 5 and 5
HALVES = np.full((HEIGHT, WIDTH, 3), (5, 4, 1), np.uint8)
HALVES[:, 4:] = (5, 2, 3)
# the score of class 0 is the red mean on the left plus the green one on the right
LEFT_RED_RIGHT_GREEN = np.float32([[1, 0, 0, 1, 0, 0], [0] * 6])
# Cells are 4 pixels wide, so along the 8 pixels U goes 0, 0, 1/8, 3/8, 5/8, 7/8, 1, 1 of the way from the left mean to
# the right one. The mask of red shows (0 + 0 + 1/8 + 3/8)/4 = 1/8 of the left half and 7/8 of the right, that of green
# the other way round; blue is flat, and its mask is 0.
HALVES_SCORES = np.array([1 * 1 / 8 + 2 * 7 / 8, 1 * 7 / 8 + 2 * 1 / 8, 0])


def halves_map(scores: np.ndarray) -> list[list[float]]:
    w = np.exp(scores) / np.exp(scores).sum()
    return [[1 * w[0] + 4 * w[1] + 5 * w[2], 3 * w[0] + 2 * w[1] + 5 * w[2]]]


def test_scorecam_by_hand(tmp_path):
    got = explained(attached(tmp_path, "linear", LEFT_RED_RIGHT_GREEN), HALVES, "scorecam")
    np.testing.assert_allclose(got.activations[:, 0], [[1, 3], [4, 2], [5, 5]])
    np.testing.assert_allclose(got.cam, halves_map(HALVES_SCORES), rtol=1e-6)
    assert (got.method, got.layer, got.class_index) == ("scorecam", "pooled", 0)
    assert set(got.cams) == {"gradcam", "scorecam"}


def test_iscam_by_hand(tmp_path):
    # the mask builds up as 0, 0 + 1/3, 0 + 1/3 + 2/3: 4/9 on average, and the score is linear
    got = explained(attached(tmp_path, "linear", LEFT_RED_RIGHT_GREEN), HALVES, "iscam", samples=3)
    np.testing.assert_allclose(got.cam, halves_map(4 / 9 * HALVES_SCORES), rtol=1e-6)


def test_sscam_by_hand(tmp_path):
    path = attached(tmp_path, "linear", LEFT_RED_RIGHT_GREEN)
    np.testing.assert_allclose(explained(path, HALVES, "sscam", sigma=0, samples=2).cam, halves_map(HALVES_SCORES))
    # two noisy masks for each channel in turn, of which the score sees the means on red's left and green's right half
    noise = 0.5 * np.random.default_rng(7).standard_normal((3, 2, HEIGHT, WIDTH), np.float32).mean(1)
    scores = HALVES_SCORES + 1 * noise[:, :, :4].mean((1, 2)) + 2 * noise[:, :, 4:].mean((1, 2))
    got = explained(path, HALVES, "sscam", sigma=0.5, samples=2, seed=7)
    np.testing.assert_allclose(got.cam, halves_map(scores), rtol=1e-5)


def test_scores_are_those_before_softmax_or_sigmoid(tmp_path):
    weights = np.random.default_rng(3).standard_normal((2, 6)) / 5
    plain, sigmoid, softmax, logs = (
        explained(attached(tmp_path, "linear", weights, end=end), picture(), "scorecam").cam
        for end in ("", "Sigmoid", "Softmax <axis=1>", "LogSoftmax <axis=1>")
    )
    np.testing.assert_allclose(sigmoid, plain, rtol=1e-5)  # a logit is the score
    np.testing.assert_allclose(softmax, logs, rtol=1e-5)
    assert np.abs(softmax - plain).max() > 1e-3  # log p is the score less another number for each picture


def test_integrated_gradients_by_hand(tmp_path):
    # of Σ w x² the gradient at t x is 2 t w x, whose integral is w x: the map is Σ_c w x²
    path = attached(tmp_path, "square", layer="image")
    x, w = values(picture()), SQUARE_WEIGHTS
    for samples in (1, 20):
        got = explained(path, picture(), "integrated-gradients", class_index=2, samples=samples)
        np.testing.assert_allclose(got.cam, (w[2] * x**2).sum(0), rtol=1e-4, atol=1e-4)


def test_integrated_gradients_add_up_to_the_score(tmp_path):
    path = attached(tmp_path, "network", layer=["pooled", "image"])
    got = explained(path, picture(), "integrated-gradients", class_index=1)
    expected = score(path, values(picture()), 1) - score(path, np.zeros(SIZE), 1)
    assert got.layer == "image"
    assert abs(expected) > 0.1
    np.testing.assert_allclose(got.cam.sum(), expected, rtol=1e-5)


def test_smoothgrad_by_hand(tmp_path):
    # the gradient of Σ w x² at x + n is 2 w (x + n), and so is its mean with the mean of the noise
    path = attached(tmp_path, "square", layer="image")
    x, w = values(picture()), SQUARE_WEIGHTS
    noise = np.random.default_rng(5).standard_normal((3, *SIZE), np.float32).mean(0)
    got = explained(path, picture(), "smoothgrad", class_index=1, samples=3, sigma=0.25, seed=5)
    spread = 0.25 * (x.max() - x.min())
    np.testing.assert_allclose(got.cam, np.abs(2 * w[1] * (x + spread * noise)).max(0), rtol=1e-4)


def test_smoothgradcam_plus_plus_by_hand(tmp_path):
    # A = x² of the clean picture; the gradient at it is w for any picture, so every mean is that of one run
    path = attached(tmp_path, "square", method="gradcam++")
    plain = explained(path, picture(), "smoothgradcam++", samples=3)
    np.testing.assert_allclose(plain.cam, plain.cams["gradcam++"], rtol=1e-4)
    # behind a squashing operator g differs between noisy pictures; A is still that of the clean one
    path = attached(tmp_path, "network", method="gradcam++")
    with onnxcam.load(path) as model:
        noise = 0.5 * np.random.default_rng(2).standard_normal((4, *SIZE), np.float32)
        noisy = np.float32(values(picture())) + noise
        g = model.outputs(noisy, ["gradients"], classes=[[1]] * 4)["gradients"].astype(np.float64)
    A = explained(path, picture(), "gradcam++").activations.astype(np.float64)
    d1, d2, d3 = (np.mean([each**power for each in g], 0) for power in (1, 2, 3))
    alpha = d2 / (2 * d2 + d3 * A.sum((1, 2), keepdims=True))
    w = (alpha * np.maximum(d1, 0)).sum((1, 2))
    expected = np.maximum((w[:, None, None] * A).sum(0), 0)
    got = explained(path, picture(), "smoothgradcam++", class_index=1, samples=4, sigma=0.5, seed=2)
    np.testing.assert_allclose(got.cam, expected, rtol=1e-4)


def probability_of(a: np.ndarray) -> np.ndarray:
    """Weights [1, 96] so that p is Σ a over the shown pixels [H, W], for a picture of ones."""
    return np.float32([a, np.zeros_like(a), np.zeros_like(a)]).reshape(1, -1)


ONES = np.ones((HEIGHT, WIDTH, 3), np.uint8)


def test_occlusion_by_hand(tmp_path):
    a = np.full((HEIGHT, WIDTH), 0.01)
    a[1, 2], a[3, 7] = 0.3, 0.2
    path = attached(tmp_path, "probability", probability_of(a))
    # squares side by side: each loses what it holds, .03 + .3 where the peak is
    got = explained(path, ONES, "occlusion", window=2, stride=2).cam
    np.testing.assert_allclose(
        got, np.kron([[0.04, 0.33, 0.04, 0.04], [0.04, 0.04, 0.04, 0.23]], np.ones((2, 2))), atol=1e-6
    )
    # squares of 2 move by 1: pixel (1, 2) is hidden by four, all of which hold it; (1, 3) by four, two of which do;
    # (3, 7) by the last one alone
    got = explained(path, ONES, "occlusion", window=2, stride=1).cam
    np.testing.assert_allclose([got[1, 2], got[1, 3], got[3, 7]], [0.33, (0.33 + 0.04) / 2, 0.23], atol=1e-6)
    # squares of 3 move by 2, from columns 0, 2, 4 and 6: the last is cut off, and so are those from row 2
    got = explained(path, ONES, "occlusion", window=3, stride=2).cam
    np.testing.assert_allclose([got[3, 7], got[0, 0]], [0.01 * 3 + 0.2, 0.01 * 8 + 0.3], atol=1e-6)


def expected_rise(a: np.ndarray) -> np.ndarray:
    """What the map tends to: Σ_q a_q Cov(M_q, M_s) / E[M], over all cells and offsets."""
    axes = []
    for n in (HEIGHT, WIDTH):
        cell = -(-n // 7)
        whole = np.array(
            [np.interp((np.arange(8 * cell) + 0.5) * 7 / (8 * cell) - 0.5, np.arange(7), e) for e in np.eye(7)]
        )
        axes.append(np.mean([whole[:, o : o + n].T @ whole[:, o : o + n] for o in range(cell)], 0))
    # cells are independent, with variance 1/4 and mean 1/2
    return 0.25 / 0.5 * np.einsum("ab,cd,bd->ac", *axes, a)


def test_rise_tends_to_its_expectation(tmp_path):
    a = np.full((HEIGHT, WIDTH), 0.002)
    a[1, 2], a[3, 7] = 0.5, 0.2
    path = attached(tmp_path, "probability", probability_of(a))
    got = explained(path, ONES, "rise", samples=20000, batch=500).cam
    expected = expected_rise(a)
    assert np.unravel_index(expected.argmax(), a.shape) == (1, 2)
    np.testing.assert_allclose(got, expected, atol=5 * 0.7 / np.sqrt(20000))
    assert np.abs(expected).max() > 10 * 5 * 0.7 / np.sqrt(20000) / 4


def test_rise_is_exact_where_the_score_does_not_hang_on_the_picture(tmp_path):
    # p = 1/3 for whatever is shown: p (mean M / E[M] - 1), which no pixel exceeds by more than the masks' own scatter
    got = explained(attached(tmp_path, "linear", np.full((3, 6), 1e-9)), ONES, "rise", samples=3000).cam
    assert np.abs(got).max() < 5 / 3 / np.sqrt(3000)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A model that is not linear, with its layer and the picture itself to look at, by batch size."""
    made = {}

    def get(batch: str = "N"):
        if batch not in made:
            made[batch] = attached(
                tmp_path_factory.mktemp("network"), "network", layer=["pooled", "image"], batch=batch
            )
        return made[batch]

    return get


def quick(name: str, **more: object) -> Perturbation:
    return Perturbation(samples=7 if METHODS[name].samples else None, **more)


@pytest.mark.parametrize("name", METHODS)
def test_the_seed_alone_decides(network, name):
    with onnxcam.load(network()) as model:
        pictures = [picture(1), picture(2), picture(3)]
        alone = [
            model.explain(each, class_index=i, method=name, perturbation=quick(name)) for i, each in enumerate(pictures)
        ]
        for batch in (1, 3, 50):
            together = model.explain(
                pictures, class_index=[0, 1, 2], method=name, perturbation=quick(name, batch=batch)
            )
            for one, other in zip(alone, together, strict=True):
                np.testing.assert_allclose(other.cam, one.cam, rtol=1e-4, atol=1e-5 * np.abs(one.cam).max())
        other_seed = model.explain(pictures[0], class_index=0, method=name, perturbation=quick(name, seed=1)).cam
        drawn = name in ("sscam", "smoothgradcam++", "smoothgrad", "rise")
        assert np.array_equal(other_seed, alone[0].cam) is not drawn
    with onnxcam.load(network("2")) as model:
        fixed = model.explain(pictures, class_index=[0, 1, 2], method=name, perturbation=quick(name))
    for one, other in zip(alone, fixed, strict=True):
        np.testing.assert_allclose(other.cam, one.cam, rtol=1e-4, atol=1e-5 * np.abs(one.cam).max())


@pytest.mark.parametrize("name", METHODS)
def test_the_class_is_found_once_on_the_picture_as_it_is(network, name):
    with onnxcam.load(network()) as model:
        second = model.explain(picture(), class_index=-2, method=name, perturbation=quick(name))
        named = model.explain(picture(), class_index=second.class_index, method=name, perturbation=quick(name))
        first = model.explain(picture(), method=name, perturbation=quick(name))
    np.testing.assert_array_equal(named.cam, second.cam)
    assert np.abs(first.cam - second.cam).max() > 1e-7
    assert second.heatmap.shape == (HEIGHT, WIDTH)


@pytest.mark.parametrize("name", METHODS)
def test_the_layout_of_the_picture_makes_no_difference(tmp_path, network, name):
    channels_last = replace(PREPROCESS, layout="nhwc")
    path = attached(tmp_path, "network", layer=["pooled", "image"], preprocess=channels_last, channels_last=True)
    with onnxcam.load(network()) as model:
        expected = model.explain(picture(), class_index=0, method=name, perturbation=quick(name))
    with onnxcam.load(path) as model:
        got = model.explain(picture(), class_index=0, method=name, perturbation=quick(name))
    np.testing.assert_allclose(got.cam, expected.cam, rtol=1e-4, atol=1e-6)


def test_counterfactuals_and_contrasts(tmp_path):
    x, w = values(picture()), SQUARE_WEIGHTS
    for explain, expected in (("counterfactual", -w[0]), ("contrast", w[0] - w[2])):
        path = attached(tmp_path, "square", layer="image", explain=explain)
        with onnxcam.load(path) as model:
            against = 2 if explain == "contrast" else None
            got = model.explain(picture(), class_index=0, against=against, method="integrated-gradients")
            np.testing.assert_allclose(got.cam, (expected * x**2).sum(0), rtol=1e-4, atol=1e-3)


def test_counterfactuals_and_contrasts_of_probabilities(tmp_path):
    weights = probability_of(np.linspace(0.001, 0.02, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH))
    usual = explained(attached(tmp_path, "probability", weights), ONES, "occlusion").cam
    for explain, factor in (("counterfactual", -1), ("contrast", 2)):  # of two classes, p - (1 - p) = 2p - 1
        got = explained(attached(tmp_path, "probability", weights, explain=explain), ONES, "occlusion").cam
        np.testing.assert_allclose(got, factor * usual, rtol=1e-4)


def test_layouts_of_the_feature_map():
    places = np.arange(24.0).reshape(1, 2, 3, 4)  # [N, C, h, w]
    nhwc = LayerInfo(name="a", layout="NHWC", shape=(None, 3, 4, 2))
    np.testing.assert_array_equal(as_places(places.transpose(0, 2, 3, 1), nhwc), places)
    tokens = np.concatenate([np.full((1, 1, 2), -1.0), places.reshape(1, 2, 12).transpose(0, 2, 1)], 1)
    layer = LayerInfo(name="a", layout="tokens", shape=(None, 13, 2), extra_tokens=1, grid=(3, 4))
    np.testing.assert_array_equal(as_places(tokens, layer), places)
    with pytest.raises(LayerError, match="does not say how its tokens lie"):
        as_places(tokens, LayerInfo(name="a", layout="tokens", shape=(None, 13, 2)))


def test_progress_goes_from_nothing_to_all(network):
    told: list[float] = []
    with onnxcam.load(network()) as model:
        model.explain([picture(1), picture(2)], method="occlusion", augment=["flip"], progress=told.append)
    assert told == sorted(told)
    assert len(told) >= 4
    assert 0 < told[0] < 0.3
    assert told[-1] == 1


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("scorecam", {"samples": 3}, "'scorecam' takes no samples"),
        ("rise", {"sigma": 1.0, "window": 2}, "'rise' takes no sigma and no window"),
        ("gradcam", {"samples": 3}, "'gradcam' takes no samples"),
        ("occlusion", {"window": 2, "stride": 3}, "leaves pixels between"),
    ],
)
def test_options_that_mean_nothing_are_refused(network, method, options, message):
    with onnxcam.load(network()) as model, pytest.raises(MethodError, match=message):
        model.explain(picture(), method=method, perturbation=Perturbation(**options))


@pytest.mark.parametrize("options", [{"samples": 0}, {"batch": 0}, {"sigma": -1.0}, {"sigma": np.nan}, {"seed": -1}])
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(MethodError, match=" or more"):
        Perturbation(**options)


def test_what_an_artifact_lacks_is_said_with_what_to_do(tmp_path):
    lean = attached(tmp_path, "linear", outputs="cam")
    with onnxcam.load(lean) as model:
        assert model.explain(picture(), method="occlusion").cam.shape == (HEIGHT, WIDTH)
        for method in ("scorecam", "smoothgradcam++"):
            with pytest.raises(MethodError, match="leaves out: make it again"):
                model.explain(picture(), method=method)
        with pytest.raises(
            MethodError, match=r"needs the gradient at the picture .* --replace --layer image --layout NCHW"
        ):
            model.explain(picture(), method="smoothgrad")
        with pytest.raises(LayerError, match="class scores alone, and no layer"):
            model.explain(picture(), method="rise", layer="pooled")
        with pytest.raises(MethodError, match="did you mean 'scorecam'"):
            model.explain(picture(), method="scorcam")
    with onnxcam.load(attached(tmp_path, "linear", layer=["pooled", "image"])) as model:
        with pytest.raises(LayerError, match="not at 'pooled': leave the layer out"):
            model.explain(picture(), method="smoothgrad", layer="pooled")
        assert model.explain(picture(), method="smoothgrad", layer="image").layer == "image"


def test_what_the_sentence_says_makes_the_file(tmp_path):
    path = attached(tmp_path, "square")
    made = onnxcam.attach(path, tmp_path / "new.cam.onnx", replace=True, layer="image", layout="NCHW").path
    assert explained(made, picture(), "smoothgrad", samples=1).layer == "image"


def test_scores_that_are_no_number_are_named_and_not_drawn(tmp_path):
    path = attached(tmp_path, "broken", layer="image")
    assert np.isfinite(explained(path, picture(), "gradcam").cam).all()
    with pytest.raises(InputError, match="score of a changed picture is NaN or infinite, so 'occlusion' has no map"):
        explained(path, picture(), "occlusion", window=8)
    with pytest.raises(InputError, match=r"the answer 'logits' of '.*' is NaN or infinite for this picture"):
        explained(path, np.zeros_like(picture()), "gradcam")


@pytest.mark.parametrize("name", ["scorecam", "integrated-gradients", "occlusion"])
def test_several_classes_are_each_as_if_alone(tmp_path, network, name):
    path = attached(tmp_path, "network", layer=["pooled", "image"], classes=2)
    how = {"method": name, "perturbation": quick(name)}
    with onnxcam.load(path) as model, onnxcam.load(network()) as single:
        for got in model.explain([picture(1), picture(2)], class_index=[2, 0], **how):
            assert [each.class_index for each in got.classes] == [2, 0]
            for each in got.classes:
                alone = single.explain(each.picture, class_index=each.class_index, **how)
                np.testing.assert_allclose(each.cam, alone.cam, rtol=1e-4, atol=1e-6)
        flipped = model.explain(picture(1), class_index=[2, 0], augment=["flip"])
        for each in flipped.classes:
            alone = single.explain(picture(1), class_index=each.class_index, augment=["flip"])
            np.testing.assert_allclose(each.cam, alone.cam, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch", ["N", "2"])
def test_a_score_of_no_class_is_that_of_each_picture(tmp_path, network, batch):
    path = attached(tmp_path, "network", layer=["pooled", "image"], score="weights", batch=batch)
    weights, pictures = np.float32([[0, 1, 0], [0, 0, -2]]), [picture(1), picture(2)]
    with onnxcam.load(path) as model, onnxcam.load(network()) as single:
        for name, gain in (("scorecam", None), ("integrated-gradients", -2), ("smoothgradcam++", None)):
            how = {"method": name, "perturbation": quick(name)}
            first, second = model.explain(pictures, score_weights=weights, **how)
            expected = single.explain(pictures[0], class_index=1, **how).cam
            np.testing.assert_allclose(first.cam, expected, rtol=1e-4, atol=1e-6)
            if gain:
                expected = gain * single.explain(pictures[1], class_index=2, **how).cam
                np.testing.assert_allclose(second.cam, expected, rtol=1e-4, atol=1e-6)
        # nothing is hidden but everything: y(x) - y(0)
        got = model.explain(pictures, score_weights=weights, method="occlusion", perturbation=Perturbation(window=8))
        for i, each in enumerate(got):
            y = [score(network(), t, i + 1) for t in (values(pictures[i]), np.zeros(SIZE))]
            np.testing.assert_allclose(each.cam, weights[i, i + 1] * (y[0] - y[1]), rtol=1e-4)
        views = model.explain(pictures, score_weights=weights, augment=["flip"])
        expected = single.explain(pictures[0], class_index=1, augment=["flip"]).cam
        np.testing.assert_allclose(views[0].cam, expected, rtol=1e-4, atol=1e-6)
