"""`onnxcam image`, as a user types it, with the model that ships."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from onnxcam.cli import main

SAMPLE = Path(__file__).parents[2] / "models" / "samples" / "cat_and_coffee.jpg"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(SAMPLE, tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def image(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["image", *arguments])


def heat(path: str) -> np.ndarray:
    """How much each pixel differs from the sample."""
    return np.abs(cv2.imread(path).astype(int) - cv2.imread(str(SAMPLE))).sum(2)


def test_one_picture(folder):
    result = image("cat.jpg", "--no-caption")
    assert result.exit_code == 0, result.output
    assert "cat.jpg: tiger cat " in result.stdout
    assert " ms) -> cat_cam.png" in result.stdout
    assert cv2.imread("cat_cam.png").shape == cv2.imread("cat.jpg").shape


def test_the_heat_is_on_the_half_of_the_class(folder):
    for name, left in (("tabby", True), ("espresso", False)):
        assert image("cat.jpg", "--class", name, "--no-caption", "-o", f"{name}.png").exit_code == 0
        difference = heat(f"{name}.png")
        share = difference[:, :600].sum() / difference.sum()
        assert (share > 0.8) if left else (share < 0.2)


def test_a_folder_with_a_bad_picture_explains_the_others_and_says_so(folder):
    (folder / "photos").mkdir()
    shutil.copy("cat.jpg", "photos/a.jpg")
    shutil.copy("cat.jpg", "photos/done_cam.png")
    (folder / "photos" / "broken.jpg").write_bytes(b"x")
    result = image("photos", "-o", "out", "--top", "3")
    assert result.exit_code == 1
    assert [p.name for p in (folder / "out").iterdir()] == ["a_cam.png"]
    assert "broken.jpg" in result.stderr
    assert result.stdout.count("\n  ") == 3


def test_json_is_a_line_a_picture(folder):
    result = image("cat.jpg", "--json", "--top", "2", "--class", "espresso")
    row = json.loads(result.stdout)
    assert (row["picture"], row["output"], row["class"], row["label"]) == ("cat.jpg", "cat_cam.png", 967, "espresso")
    assert [entry["label"] for entry in row["top"]] == ["tiger cat", "Egyptian cat"]
    assert row["ms"] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.jpg"], 1, "no file 'none.jpg'"),
        (["cat.jpg", "-o", "cat.jpg", "--overwrite"], 1, "is an input itself"),
        (["cat.jpg", "--class", "expreso"], 1, "did you mean 'espresso'"),
        (["cat.jpg", "--class", "1000"], 1, "classes 0 to 999"),
        (["none.onnx", "cat.jpg"], 1, "none.onnx"),
        (["cat.jpg", "--provider", "quantum"], 1, "not installed"),
        (["cat.jpg", "--max-pixels", "100"], 1, "over the limit"),
        (["cat.jpg", "--method", "smoothgrad"], 1, "needs the gradient at the picture itself"),
        (["cat.jpg", "--samples", "9"], 1, "'gradcam' takes no samples"),
        (["cat.jpg", "--augment", "flip,rotate"], 1, "no augmentation 'rotate'"),
        (["cat.jpg", "--method", "rise", "--samples", "0"], 2, "range"),
        (["cat.jpg", "-o", "x.abc"], 1, "not as '.abc'"),
        (["cat.jpg", "--colormap", "trubo"], 2, "not one of"),
        ([], 2, "Missing argument"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(folder, arguments, code, message):
    result = image(*arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert [p.name for p in folder.iterdir()] == ["cat.jpg"]


def test_a_result_is_replaced_only_when_asked_to(folder):
    (folder / "cat_cam.png").write_bytes(b"mine")
    assert "exists" in image("cat.jpg").stderr
    assert (folder / "cat_cam.png").read_bytes() == b"mine"
    assert image("cat.jpg", "--overwrite").exit_code == 0
    assert cv2.imread("cat_cam.png") is not None


def test_no_input_is_ever_overwritten_by_the_result_of_another(folder):
    shutil.copy("cat.jpg", "cat_cam.png")
    result = image("cat.jpg", "cat_cam.png", "--overwrite")
    assert result.exit_code == 1
    assert "'cat_cam.png' is an input itself" in result.stderr
    assert (folder / "cat_cam.png").read_bytes() == SAMPLE.read_bytes()


def test_two_pictures_of_one_name_do_not_share_a_result(folder):
    shutil.copy("cat.jpg", "cat.png")
    result = image("cat.jpg", "cat.png")
    assert result.exit_code == 1
    assert "'cat.jpg' and 'cat.png' would both become 'cat_cam.png'" in result.stderr


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """The model that ships, explained for three classes of each picture."""
    shipped = SAMPLE.parents[1] / "efficientnet_lite0.cam.onnx"
    path = tmp_path_factory.mktemp("three") / "three.cam.onnx"
    result = CliRunner().invoke(main, ["attach", str(shipped), "--replace", "--classes", "3", "-o", str(path)])
    assert "3 explained in one run" in result.stdout, result.output
    return str(path)


@pytest.mark.parametrize("choice", [["--class", "tabby,espresso,-1"], ["--class", "tabby", "--class", "967,-1"]])
def test_several_classes_stand_side_by_side(folder, three, choice):
    result = image(three, "cat.jpg", "--no-caption", "--json", *choice)
    row = json.loads(result.stdout)
    assert [each["label"] for each in row["classes"]] == ["tabby", "espresso", "tiger cat"]
    assert row["class"] == row["classes"][0]["class"]
    sample, drawn = cv2.imread("cat.jpg"), cv2.imread("cat_cam.png")
    height, width = sample.shape[:2]
    assert drawn.shape == (height, 3 * width, 3)
    for k, left in enumerate((True, False, True)):
        difference = np.abs(drawn[:, k * width : (k + 1) * width].astype(int) - sample).sum(2)
        share = difference[:, : width // 2].sum() / difference.sum()
        assert (share > 0.8) if left else (share < 0.2)


def test_the_picture_itself_stands_once_beside_its_classes(folder, three):
    assert image(three, "cat.jpg", "--layout", "side-by-side").exit_code == 0
    sample, drawn = cv2.imread("cat.jpg"), cv2.imread("cat_cam.png")
    height, width = sample.shape[:2]
    assert drawn.shape == (height, 4 * width, 3)
    np.testing.assert_array_equal(drawn[:, :width], sample)
    for k in range(1, 4):
        assert not np.array_equal(drawn[:20, k * width : k * width + 20], sample[:20, :20]), "the caption"


def test_too_many_or_too_few_classes_are_refused(folder, three):
    assert "3 classes of each image at once, and 1 was given" in image(three, "cat.jpg", "--class", "tabby").stderr
    result = image("cat.jpg", "--class", "tabby", "--class", "espresso")
    assert "explains one class of each picture: make it with --classes" in result.stderr


def test_a_method_on_changed_pictures_takes_its_options(folder):
    row = json.loads(image("cat.jpg", "--method", "occlusion", "--window", "112", "--stride", "56", "--json").stdout)
    assert (row["method"], row["layer"], row["label"]) == ("occlusion", None, "tiger cat")
    for seed in ("3", "3", "4"):
        result = image("cat.jpg", "--method", "rise", "--samples", "6", "--seed", seed, "--batch", "4", "--overwrite")
        assert result.exit_code == 0, result.output
        (folder / "cat_cam.png").rename(folder / f"{len([*folder.iterdir()])}.png")
    first, second, third = (cv2.imread(f"{n}.png") for n in (2, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, third)


def test_views_are_averaged_and_the_heat_stays_on_the_half_of_the_class(folder):
    assert image("cat.jpg", "--class", "espresso", "--augment", "flip,scale", "--no-caption").exit_code == 0
    difference = heat("cat_cam.png")
    assert difference[:, 600:].sum() / difference.sum() > 0.8
    shutil.copy("cat_cam.png", "views.png")
    assert image("cat.jpg", "--class", "espresso", "--no-caption", "--overwrite").exit_code == 0
    assert not np.array_equal(cv2.imread("views.png"), cv2.imread("cat_cam.png"))


def test_a_picture_is_seen_whole_with_a_border(folder):
    assert image("cat.jpg", "--class", "tabby", "--no-caption", "-o", "cut.png").exit_code == 0
    assert image("cat.jpg", "--class", "tabby", "--no-caption", "-o", "all.png", "--resize", "letterbox").exit_code == 0
    width = cv2.imread(str(SAMPLE)).shape[1]
    border = (width - cv2.imread(str(SAMPLE)).shape[0]) // 2  # that the model that ships cuts off on either side
    cut, whole = heat("cut.png"), heat("all.png")
    assert cut[:, : border - 20].max() < 30 < whole[:, : border - 20].max()  # JPEG and colour rounding aside
