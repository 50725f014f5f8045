"""The artifact's contract: every name and metadata key that exporter and runtime share.

An artifact is a plain ONNX file ``NAME.cam.onnx``. Beside the model's own inputs and outputs it has the
optional input `CLASS_INDEX` and the outputs `CAM`, `ACTIVATIONS`, `GRADIENTS` and `EXPLAINED_CLASS`, and it
carries one JSON string, `ArtifactInfo`, under the metadata key `METADATA_KEY`. One that explains a class against
another has the optional input `AGAINST_INDEX` and the output `AGAINST_CLASS` as well.
"""

from __future__ import annotations

__all__ = [
    "ACTIVATIONS",
    "AGAINST_CLASS",
    "AGAINST_INDEX",
    "BOX_INDEX",
    "BOX_THRESHOLD",
    "CAM",
    "CLASS_INDEX",
    "CONTRACT_VERSION",
    "DEFAULT_AGAINST_INDEX",
    "DEFAULT_BOX_INDEX",
    "DEFAULT_BOX_THRESHOLD",
    "DEFAULT_CLASS_INDEX",
    "EXPLAINED_BOXES",
    "EXPLAINED_CLASS",
    "GRADIENTS",
    "METADATA_KEY",
    "SCORE",
    "SCORE_INPUTS",
    "SCORE_REFERENCE",
    "SCORE_REGION",
    "SCORE_WEIGHTS",
    "ArtifactInfo",
    "BoxInfo",
    "Explain",
    "Fuse",
    "LayerInfo",
    "Preprocess",
    "ScoreInfo",
    "ScoreKind",
    "cam_output",
    "layer_output",
]

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from onnxcam.errors import ArtifactError

CONTRACT_VERSION = 1
METADATA_KEY = "onnxcam"

CLASS_INDEX = "class_index"
"""Optional input, int64 [N] or [1]: the class to explain; a negative value is a rank, -1 the top class.

Of an artifact that explains K classes of each image, [N, K] or [1, K]: by default the top K."""
DEFAULT_CLASS_INDEX = -1
AGAINST_INDEX = "against_index"
"""Optional input, int64 [N] or [1]: the class to set the explained one apart from; a negative value is a rank among
the others, -1 the likeliest of them. With K classes, [N, K] or [1, K]: one for each."""
DEFAULT_AGAINST_INDEX = -1

SCORE_WEIGHTS = "score_weights"
"""Input of an artifact whose score is a weighting: float32, shaped as the output it weighs; [1, …] for all images."""
SCORE_REFERENCE = "score_reference"
"""Input of an artifact whose score is a similarity: float32 [N, D] or [1, D], the embedding to be similar to."""
SCORE_REGION = "score_region"
"""Optional input of an artifact that explains a segmentation: float32 [N, H, W] at the output's resolution, or what is
broadcast to it. How much each pixel counts; where it is negative, as it is by default, the explained class's own
predicted mask does."""
BOX_INDEX = "box_index"
"""Optional input of an artifact that explains one box of a detector: int64 [N] or [1]. A negative value is a rank: -1
the box at which the explained class is likeliest."""
DEFAULT_BOX_INDEX = -1
BOX_THRESHOLD = "box_threshold"
"""Optional input of an artifact that explains all boxes of a class: float32 [N] or [1], the probability above which."""
DEFAULT_BOX_THRESHOLD = 0.25
SCORE_INPUTS = (CLASS_INDEX, AGAINST_INDEX, SCORE_WEIGHTS, SCORE_REFERENCE, SCORE_REGION, BOX_INDEX, BOX_THRESHOLD)
"""Every input that an explanation may add."""

CAM = "cam"
"""Output, float32 [N, h, w]: the raw map, after the method's own ReLU, before any min-max or resize. With K classes,
[N, K, h, w]."""
ACTIVATIONS = "activations"
"""Output, shaped as the feature map A."""
GRADIENTS = "gradients"
"""Output, shaped as the feature map: dy^c/dA. With K classes, [N, K, …]: K of them, an axis behind the images."""
EXPLAINED_CLASS = "explained_class"
"""Output, int64 [N], with K classes [N, K]: the class that was explained."""
EXPLAINED_BOXES = "explained_boxes"
"""Output, bool [N, boxes], with K classes [N, K, boxes]: the boxes at which the class was explained."""
SCORE = "score"
"""Output, float32 [N]: y, where it is of no class."""
AGAINST_CLASS = "against_class"
"""Output, int64 [N], with K classes [N, K]: the class that it was set apart from."""

ResizeMode = Literal["stretch", "crop", "letterbox"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "area"]
ColorOrder = Literal["rgb", "bgr", "gray"]
ImageLayout = Literal["nchw", "nhwc"]
ImageType = Literal["float32", "float16", "uint8"]
FeatureLayout = Literal["NCHW", "NHWC", "NCDHW", "tokens"]
Activation = Literal["softmax", "sigmoid", "identity"]
ScoreKind = Literal["class", "weights", "number", "segmentation", "boxes", "similarity"]
"""What y is: the score of a ``class``; Σ ``weights`` · output; a ``number`` that the model gives for each image; the
score of a class over a region of a ``segmentation``, or at a detector's ``boxes``; the ``similarity`` of an embedding
to another."""
Explain = Literal["class", "counterfactual", "contrast"]
"""Of which score a map tells the reasons: y_c, -y_c, or y_c - y_d with another class d."""
Fuse = Literal["mean", "max"]


def layer_output(name: str, layer: int) -> str:
    """Output ``name`` of the layer with position ``layer``: ``name`` for the first, ``name.<k>`` from the second on."""
    return name if layer == 0 else f"{name}.{layer}"


def cam_output(method: str, *, first: bool, layer: int = 0) -> str:
    """Name of the map of ``method``: ``cam`` for the first method, ``cam.<method>`` for the others."""
    return layer_output(CAM if first else f"{CAM}.{method}", layer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """How a picture becomes the model's input: ``(pixel · scale - mean) / std`` on ``height × width`` pixels.

    resize: ``stretch`` maps the whole picture onto the input; ``crop`` takes the largest centred region of the
        input's aspect ratio, shrunk by ``crop_ratio`` (torchvision's Resize(256)+CenterCrop(224) is 0.875);
        ``letterbox`` keeps the whole picture and its aspect ratio, and fills the rest with ``fill`` (0-255).
    interpolation: used as named when enlarging; shrinking averages over the area when ``antialias`` is set.
    mean, std: in the units of ``pixel · scale``, one value per channel in the order of ``color``.
    """

    height: int
    width: int
    resize: ResizeMode = "crop"
    crop_ratio: float = 1.0
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    fill: int = 114
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    color: ColorOrder = "rgb"
    layout: ImageLayout = "nchw"
    dtype: ImageType = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInfo:
    """One target: the name the user knows it by, how its axes are laid out, and its shape (None: dynamic).

    layout: ``NCDHW`` is that of volumes and clips; their maps are [N, d, h, w].
    extra_tokens, grid: of tokens [N, T, C], how many of the first have no place (a class token), and rows and columns
        of the others.
    module: path of the PyTorch module whose output it is, where the file tells.
    """

    name: str
    layout: FeatureLayout
    shape: tuple[int | None, ...]
    extra_tokens: int = 0
    grid: tuple[int, int] | None = None
    module: str | None = None

    @property
    def layout_text(self) -> str:
        """The layout as ``--layout`` takes it: ``NCHW``, ``NHWC``, ``tokens:1``."""
        return f"tokens:{self.extra_tokens}" if self.layout == "tokens" else self.layout


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxInfo:
    """How a detector gives its boxes.

    every: whether all likely boxes of the class are explained, or one.
    objectness: whether a number after the sides says how likely there is anything; it multiplies the class's.
    background: whether the last of the class scores is that of no object.
    corners: whether the sides are left, top, right and bottom; else centre, width and height.
    relative: whether they are shares of the input's size; else its pixels. None is as it is usual.
    axis: along which axis of the class scores, 1 or 2, the numbers of a box lie; 0 is the shorter. ``first`` is that of
        the first class's.
    output: the output with the sides.
    """

    every: bool = False
    objectness: bool = False
    background: bool = False
    corners: bool = False
    relative: bool | None = None
    axis: int = 0
    first: int = 0
    output: str = ""

    def completed(self, *, output: str, axis: int, first: int, relative: bool) -> BoxInfo:
        """The same with what the graph tells; what is said already stays."""
        known = relative if self.relative is None else self.relative
        return replace(self, output=output, axis=axis, first=first, relative=known)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreInfo:
    """What is explained: ``output`` is the model's own class output [N, classes], and ``activation`` what turns
    it into probabilities (``identity`` where the model ends in a softmax of its own).

    classes: of the output; 0 where y is of no class.
    boxes: of a detector.
    explained: how many classes of each image are explained in one run, K. From two on, maps are [N, K, h, w].
    """

    output: str
    activation: Activation = "softmax"
    classes: int
    kind: ScoreKind = "class"
    explained: int = 1
    boxes: BoxInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactInfo:
    """The metadata of an artifact. ``extra`` keeps the keys that this version does not know.

    image_input: the model input that takes the picture.
    picture_methods: those of ``methods`` whose map is of the picture, whatever the layer, and as large as the input.
    attention_methods: those of ``methods`` whose map is of the attention in all layers: a value for each token's place.
    explain: what the maps tell the reasons of; see `Explain`. `GRADIENTS` is of the class score in any case.
    fuse: how the maps of all layers were joined into one; None where each layer has its own.
    eigen_smooth: whether channels were combined by their principal component instead of their sum.
    nodes: counts ``{"forward": …, "backward": …}``, where backward is everything the exporter added.
    verification: relative errors found at export, by name (``activations``, ``gradients``, ``outputs``).
    """

    contract: int = CONTRACT_VERSION
    onnxcam: str
    image_input: str
    layers: tuple[LayerInfo, ...]
    methods: tuple[str, ...]
    score: ScoreInfo
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] | None = None
    source: str | None = None
    license: str | None = None
    picture_methods: tuple[str, ...] = ()
    attention_methods: tuple[str, ...] = ()
    explain: Explain = "class"
    fuse: Fuse | None = None
    eigen_smooth: bool = False
    nodes: Mapping[str, int] = field(default_factory=dict)
    verification: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The metadata string, with the unknown keys of ``extra`` at the top level again."""
        content = asdict(self)
        content |= content.pop("extra")
        return json.dumps(content, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ArtifactInfo:
        """Read the metadata string. Raises `ArtifactError` if it is damaged or of a newer contract."""
        try:
            content = json.loads(text)
            version = content["contract"]
            if not isinstance(version, int):
                raise TypeError(f"contract is {version!r}")
            if version > CONTRACT_VERSION:
                raise ArtifactError(
                    f"this artifact has contract version {version}, and this onnxcam reads up to {CONTRACT_VERSION}: "
                    "upgrade with 'pip install --upgrade onnxcam'"
                )
            known = {f.name for f in fields(cls)} - {"extra"}
            values = {key: content[key] for key in content if key in known}
            values["layers"] = tuple(
                LayerInfo(**_tuples(_only(LayerInfo, layer), "shape", "grid")) for layer in content["layers"]
            )
            values["methods"] = tuple(content["methods"])
            for key in ("picture_methods", "attention_methods"):
                values[key] = tuple(content.get(key, ()))
            score = _only(ScoreInfo, content["score"])
            if score.get("boxes") is not None:
                score["boxes"] = BoxInfo(**_only(BoxInfo, score["boxes"]))
            values["score"] = ScoreInfo(**score)
            if content.get("preprocess") is not None:
                values["preprocess"] = Preprocess(**_tuples(_only(Preprocess, content["preprocess"]), "mean", "std"))
            if content.get("labels") is not None:
                values["labels"] = tuple(content["labels"])
            return cls(**values, extra={key: content[key] for key in content if key not in known})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"the '{METADATA_KEY}' metadata is damaged ({error}): export the model again") from None


def _only(kind: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that dataclass ``kind`` knows; those that a later minor version added are passed over."""
    known = {f.name for f in fields(kind)}
    return {key: value for key, value in content.items() if key in known}


def _tuples(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    """``content`` with the lists under ``keys`` as tuples."""
    return content | {key: tuple(content[key]) for key in keys if content.get(key) is not None}
