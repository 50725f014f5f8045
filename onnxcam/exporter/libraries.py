"""Models of timm, torchvision and Hugging Face Transformers, with what their library knows of their pictures."""

from __future__ import annotations

__all__ = ["LIBRARIES", "ModelSource", "build", "processor_preprocess"]

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from onnxcam.contract import Interpolation, Preprocess, ResizeMode
from onnxcam.errors import MissingExtraError, ModelSourceError, OnnxCamError, nearest_names


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model with what its library knows of it: input size [C, H, W], preprocessing, labels, licence."""

    model: Any
    name: str
    input_size: tuple[int, int, int]
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] | None = None
    license: str | None = None


def build(make: Callable[[], Any], spec: str) -> Any:
    try:
        return make()
    except OnnxCamError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelSourceError(
            f"'{spec}' cannot be built ({type(error).__name__}: {reason}): "
            "if its weights could not be fetched, give a file with --weights, or none with --no-pretrained"
        ) from error


_TIMM_CROPS: dict[str, ResizeMode] = {"center": "crop", "squash": "stretch", "border": "letterbox"}


def _timm(name: str, pretrained: bool, input_size: tuple[int, int, int] | None) -> ModelSource:
    timm = _library("timm")
    bare = name.partition(".")[0]
    known = timm.list_models()
    if bare not in known:
        raise ModelSourceError(f"timm has no model '{name}'; {nearest_names(bare, known) or 'see timm.list_models()'}")
    model = build(lambda: timm.create_model(name, pretrained=pretrained), f"timm:{name}")
    config = model.pretrained_cfg
    size = tuple(input_size or config["input_size"])
    squash = config.get("crop_mode") == "squash"
    preprocess = Preprocess(
        height=size[1],
        width=size[2],
        resize=_TIMM_CROPS[config.get("crop_mode", "center")],
        crop_ratio=1.0 if squash else float(config.get("crop_pct") or 0.875),
        interpolation=_interpolation(config.get("interpolation")),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    labels = None
    if config.get("num_classes") == 1000 == model.num_classes:
        names = timm.data.ImageNetInfo("imagenet-1k")
        labels = tuple(names.index_to_description(i) for i in range(1000))
    return ModelSource(
        model=model,
        name=f"timm:{name}",
        input_size=size,
        preprocess=preprocess,
        labels=labels,
        license=config.get("license"),
    )


def _torchvision(name: str, pretrained: bool, input_size: tuple[int, int, int] | None) -> ModelSource:
    models = _library("torchvision.models")
    known = models.list_models(module=models)
    if name not in known:
        raise ModelSourceError(
            f"torchvision has no classifier '{name}'; "
            + (nearest_names(name, known) or "see torchvision.models.list_models()")
        )
    weights = models.get_model_weights(name).DEFAULT
    model = build(lambda: models.get_model(name, weights=weights if pretrained else None), f"torchvision:{name}")
    preset = weights.transforms()
    height, width = (input_size or (3, preset.crop_size[0], preset.crop_size[0]))[1:]
    return ModelSource(
        model=model,
        name=f"torchvision:{name}",
        input_size=input_size or (3, height, width),
        preprocess=Preprocess(
            height=height,
            width=width,
            crop_ratio=preset.crop_size[0] / preset.resize_size[0],
            interpolation=_interpolation(preset.interpolation.value),
            mean=tuple(preset.mean),
            std=tuple(preset.std),
        ),
        labels=tuple(weights.meta["categories"]),
        license="BSD-3-Clause",
    )


def _huggingface(name: str, pretrained: bool, input_size: tuple[int, int, int] | None) -> ModelSource:
    transformers = _library("transformers")
    auto = transformers.AutoModelForImageClassification

    def make() -> Any:
        return auto.from_pretrained(name) if pretrained else auto.from_config(config)

    config = build(lambda: transformers.AutoConfig.from_pretrained(name), f"huggingface:{name}")
    model = build(make, f"huggingface:{name}")
    processor, _ = build(lambda: transformers.BaseImageProcessor.get_image_processor_dict(name), f"huggingface:{name}")
    preprocess = processor_preprocess(processor, input_size)
    return ModelSource(
        model=model,
        name=f"huggingface:{name}",
        input_size=(len(preprocess.mean), preprocess.height, preprocess.width),
        preprocess=preprocess,
        labels=tuple(config.id2label[index] for index in range(config.num_labels)),
    )


_PIL_FILTERS: Final[Mapping[int, Interpolation]] = {0: "nearest", 1: "bicubic", 2: "bilinear", 3: "bicubic"}
_WIDE_CROP: Final = 384
"""The side from which an image processor with a crop_pct squashes pictures instead of cropping them."""


def processor_preprocess(processor: Mapping[str, Any], input_size: tuple[int, int, int] | None = None) -> Preprocess:
    """What an image processor of Transformers does, from its ``preprocessor_config.json``.

    input_size: channels, height, width in the place of its own.
    Raises `ModelSourceError` where it states no size.
    """
    size, crop = _sides(processor.get("size")), None
    if size is None:
        raise ModelSourceError("the image processor states no size: give --input-size CHANNELS,HEIGHT,WIDTH")
    share = processor.get("crop_pct")
    if processor.get("do_center_crop"):
        crop = _sides(processor.get("crop_size"))
    elif share and size[0] < _WIDE_CROP:
        size, crop = (round(size[0] / share), round(size[1] / share)), size
    height, width = crop or size
    keeps_ratio = isinstance(processor["size"], Mapping) and "shortest_edge" in processor["size"]
    if input_size is not None:
        height, width = input_size[1:]
    normalizes = processor.get("do_normalize", True)
    channels = len(processor.get("image_mean") or (0, 0, 0))
    return Preprocess(
        height=height,
        width=width,
        resize="crop" if crop is not None or (keeps_ratio and not share) else "stretch",
        crop_ratio=1.0 if crop is None else min(1.0, crop[0] / size[0]),
        interpolation=_PIL_FILTERS.get(processor.get("resample", 2), "bilinear"),
        scale=float(processor.get("rescale_factor") or 1 / 255) if processor.get("do_rescale", True) else 1.0,
        mean=tuple(processor["image_mean"]) if normalizes else (0.0,) * channels,
        std=tuple(processor["image_std"]) if normalizes else (1.0,) * channels,
        color="gray" if channels == 1 else "rgb",
    )


def _sides(size: Any) -> tuple[int, int] | None:
    """Height and width of a processor's ``size`` or ``crop_size``."""
    if isinstance(size, int):
        return size, size
    if not size:
        return None
    short = size.get("shortest_edge")
    sides = (short, short) if short else (size.get("height"), size.get("width"))
    return sides if all(sides) else None


LIBRARIES: Final[dict[str, Callable[[str, bool, tuple[int, int, int] | None], ModelSource]]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "huggingface": _huggingface,
}


def _library(name: str) -> ModuleType:
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise MissingExtraError(
            f"models of {package} need {package}, which is not installed: pip install {package}"
        ) from None
    except RuntimeError as error:
        raise ModelSourceError(
            f"{package} cannot be imported: {error}; install the build that fits your torch"
        ) from None


def _interpolation(name: str | None) -> Any:
    return name if name in {"nearest", "bilinear", "bicubic"} else "bilinear"
