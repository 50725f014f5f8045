"""Where models come from: files, weights, and what is said when they do not fit."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from onnxcam.contract import Preprocess
from onnxcam.errors import MissingExtraError, ModelSourceError
from onnxcam.exporter.libraries import processor_preprocess
from onnxcam.exporter.sources import ModelSource, completed_preprocess, load_source, read_labels
from onnxcam.exporter.torch import load_weights

SOURCE = """
import torch
from onnxcam import Preprocess

LABELS = ["no", "yes"]

def make_model():
    return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())

def broken():
    raise RuntimeError("no such thing")

def number():
    return 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def test_a_file_gives_its_model_and_labels(file):
    source = load_source(f"{file}:make_model", input_size=(1, 9, 7))
    assert (source.input_size, source.labels, source.preprocess) == ((1, 9, 7), ("no", "yes"), None)
    assert not source.model.training
    file.write_text(SOURCE + "PREPROCESS = Preprocess(height=5, width=6, mean=(0.5,), std=(0.2,))", encoding="utf-8")
    assert load_source(f"{file}:make_model").input_size == (1, 5, 6)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{file}:make_modle", "no function 'make_modle'; did you mean 'make_model'"),
        ("{file}:broken", "cannot be built .*no such thing"),
        ("{file}:number", "returned a int"),
        ("{file}", "names no function"),
        ("{file}.py:make", "does not exist"),
        ("resnet50", "write timm:NAME"),
    ],
)
def test_a_source_that_gives_no_model_says_why(file, spec, message):
    with pytest.raises(ModelSourceError, match=message):
        load_source(spec.format(file=file), input_size=(1, 9, 7))


def test_the_input_size_is_asked_for(file):
    with pytest.raises(ModelSourceError, match="--input-size CHANNELS,HEIGHT,WIDTH"):
        load_source(f"{file}:make_model")


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr("onnxcam.exporter.libraries.importlib.import_module", missing)
    with pytest.raises(MissingExtraError, match="pip install timm"):
        load_source("timm:resnet18")


NORMAL = {"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1], "resample": 3}


@pytest.mark.parametrize(
    ("processor", "expected"),
    [  # as ViT, an older ViT, ConvNeXt, ConvNeXt for large pictures, DINOv2 and a processor without a crop say it
        ({"size": {"height": 224, "width": 192}, "resample": 2}, (224, 192, "stretch", 1.0)),
        ({"size": 224}, (224, 224, "stretch", 1.0)),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, (224, 224, "crop", 0.875)),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, (384, 384, "stretch", 1.0)),
        (
            {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
            (224, 224, "crop", 0.875),
        ),
        ({"size": {"shortest_edge": 224}}, (224, 224, "crop", 1.0)),
    ],
)
def test_the_preprocessing_of_transformers_is_read_from_its_processor(processor, expected):
    found = processor_preprocess(NORMAL | processor)
    assert (found.height, found.width, found.resize, found.crop_ratio) == expected
    assert (found.mean, found.std, found.scale) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1), 1 / 255)
    assert found.interpolation == ("bilinear" if "resample" in processor else "bicubic")


def test_a_processor_that_does_not_scale_is_believed():
    found = processor_preprocess(NORMAL | {"size": 8, "do_normalize": False, "do_rescale": False}, (3, 6, 4))
    assert (found.height, found.width, found.mean, found.std, found.scale) == (6, 4, (0.0,) * 3, (1.0,) * 3, 1.0)
    with pytest.raises(ModelSourceError, match="states no size"):
        processor_preprocess(NORMAL)


def test_weights_are_loaded_without_running_code(file, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    model = load_source(f"{file}:make_model", input_size=(1, 9, 7)).model
    bad = tmp_path / "bad.pth"
    bad.write_bytes(pickle.dumps({"0.weight": Evil()}))
    with pytest.raises(ModelSourceError, match="no weights that can be read safely"):
        load_weights(model, bad)
    assert not (tmp_path / "owned").exists()


def test_weights_fit_or_are_refused(file, tmp_path):
    model = load_source(f"{file}:make_model", input_size=(1, 9, 7)).model
    wanted = {key: torch.full_like(value, 0.5) for key, value in model.state_dict().items()}
    torch.save({"state_dict": {f"module.{key}": value for key, value in wanted.items()}}, tmp_path / "w.pth")
    load_weights(model, tmp_path / "w.pth")
    assert model[0].weight.unique().tolist() == [0.5]
    torch.save({"0.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ModelSourceError, match="do not fit the model"):
        load_weights(model, tmp_path / "w.pth")
    with pytest.raises(ModelSourceError, match="do not exist"):
        load_weights(model, tmp_path / "none.pth")


def test_what_the_user_says_comes_before_what_the_library_knows():
    known = ModelSource(model=None, name="x", input_size=(3, 9, 7), preprocess=Preprocess(height=9, width=7))
    assert completed_preprocess(known) == known.preprocess
    changed = completed_preprocess(known, resize="letterbox", mean=(0.0, 0.0, 0.0))
    assert changed is not None
    assert (changed.resize, changed.mean, changed.std) == ("letterbox", (0.0, 0.0, 0.0), (0.229, 0.224, 0.225))
    unknown = ModelSource(model=None, name="x", input_size=(1, 9, 7))
    assert completed_preprocess(unknown) is None
    grey = completed_preprocess(unknown, mean=(0.5,), std=(0.2,))
    assert grey is not None
    assert (grey.color, grey.height, grey.width) == ("gray", 9, 7)
    with pytest.raises(ModelSourceError, match="both --mean and --std"):
        completed_preprocess(unknown, mean=(0.5,))
    with pytest.raises(ModelSourceError, match="--mean has 3 values"):
        completed_preprocess(unknown, mean=(0.5, 0.5, 0.5), std=(0.2,))
    with pytest.raises(ModelSourceError, match="above 0"):
        completed_preprocess(unknown, mean=(0.5,), std=(0.0,))


def test_labels_are_read_a_line_each(tmp_path):
    (tmp_path / "l.txt").write_text("tabby\n\nespresso \n", encoding="utf-8")
    assert read_labels(tmp_path / "l.txt") == ("tabby", "espresso")
    with pytest.raises(ModelSourceError, match="cannot be read"):
        read_labels(tmp_path / "no.txt")
