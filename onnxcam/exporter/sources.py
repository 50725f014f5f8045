"""Where a PyTorch model comes from: a library, as in ``timm:NAME``, or a function, ``file.py:function``."""

from __future__ import annotations

__all__ = ["ModelSource", "completed_preprocess", "load_source", "read_labels"]

import importlib
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from onnxcam.contract import ImageLayout, ImageType, Preprocess
from onnxcam.errors import ModelSourceError, OnnxCamError, nearest_names
from onnxcam.exporter.libraries import LIBRARIES, ModelSource, build


def load_source(
    spec: str,
    *,
    weights: Path | None = None,
    pretrained: bool = True,
    input_size: tuple[int, int, int] | None = None,
) -> ModelSource:
    """The model that ``spec`` names, in evaluation mode.

    weights: a state dict to load instead of the library's own pretrained weights.
    pretrained: whether a library may load (and, on first use, fetch) their weights.
    input_size: channels, height, width; needed where the library does not know it.

    Raises `ModelSourceError` where ``spec`` or the weights cannot be found or used, and `MissingExtraError`
    where the library is not installed.
    """
    from onnxcam.exporter import torch as module_export

    kind, _, name = spec.partition(":")
    pretrained = pretrained and weights is None
    if kind in LIBRARIES and name:
        source = LIBRARIES[kind](name, pretrained, input_size)
    elif spec.rpartition(":")[0].endswith(".py"):
        source = _from_file(spec, input_size)
    elif spec.endswith(".py"):
        raise ModelSourceError(f"'{spec}' names no function: write {spec}:make_model")
    else:
        raise ModelSourceError(
            f"'{spec}' is no model: write {', '.join(f'{library}:NAME' for library in LIBRARIES)}, "
            "or path/to/file.py:function"
        )
    if weights is not None:
        module_export.load_weights(source.model, weights)
    source.model.eval()
    return source


def _from_file(spec: str, input_size: tuple[int, int, int] | None) -> ModelSource:
    file, _, function = spec.rpartition(":")
    module = _module(Path(file))
    make = getattr(module, function, None)
    if not callable(make):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ModelSourceError(f"'{file}' has no function '{function}'; {nearest_names(function, names)}".rstrip("; "))
    preprocess = getattr(module, "PREPROCESS", None)
    if input_size is None and preprocess is not None:
        input_size = (len(preprocess.mean), preprocess.height, preprocess.width)
    if input_size is None:
        raise ModelSourceError(f"the input size of '{spec}' is not known: give --input-size CHANNELS,HEIGHT,WIDTH")
    if preprocess is not None:
        preprocess = replace(preprocess, height=input_size[1], width=input_size[2])
    labels = getattr(module, "LABELS", None)
    from onnxcam.exporter.torch import is_module

    model = build(make, spec)
    if not is_module(model):
        raise ModelSourceError(f"'{spec}' returned a {type(model).__name__}: it must return a torch.nn.Module")
    return ModelSource(
        model=model,
        name=spec,
        input_size=input_size,
        preprocess=preprocess,
        labels=None if labels is None else tuple(labels),
    )


def _module(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelSourceError(f"the file '{path}' does not exist")
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.path.insert(0, str(path.resolve().parent))  # its own imports are found as if it were run
    try:
        found.loader.exec_module(module)
    except OnnxCamError:
        raise
    except Exception as error:
        raise ModelSourceError(f"'{path}' cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    return module


def completed_preprocess(
    source: ModelSource,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    resize: Any = None,
    crop_ratio: float | None = None,
    layout: ImageLayout = "nchw",
    dtype: ImageType = "float32",
) -> Preprocess | None:
    """What the user says over what the library knows; None where neither says how values are scaled.

    layout, dtype: those of the model's input, where the library says nothing.

    Raises `ModelSourceError` where mean and std do not fit the model's channels.
    """
    channels, height, width = source.input_size
    known = source.preprocess
    if known is None:
        if mean is None or std is None:
            if mean or std or resize or crop_ratio:
                raise ModelSourceError("the preprocessing of this model is not known: give both --mean and --std")
            return None
        if not (height and width):
            raise ModelSourceError("the model leaves height and width open: give --input-size CHANNELS,HEIGHT,WIDTH")
        known = Preprocess(
            height=height,
            width=width,
            resize="stretch",
            color="gray" if channels == 1 else "rgb",
            layout=layout,
            dtype=dtype,
        )
    given = {"mean": mean, "std": std, "resize": resize, "crop_ratio": crop_ratio}
    known = replace(known, **{key: value for key, value in given.items() if value is not None})
    for name, values in (("mean", known.mean), ("std", known.std)):
        if len(values) != channels:
            raise ModelSourceError(
                f"--{name} has {len(values)} values and the model takes {channels} channels: give one each"
            )
    if min(known.std) <= 0:
        raise ModelSourceError("--std must be above 0 for each channel")
    return known


def read_labels(path: Path) -> tuple[str, ...]:
    """The class names in a text file, one a line. Raises `ModelSourceError` where it cannot be read."""
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ModelSourceError(f"the labels '{path}' cannot be read: {error}") from None
