from __future__ import annotations

import numpy as np
import pytest
import torch.nn.functional as F  # noqa: N812  its usual name

from onnxcam.errors import UnsupportedOperatorError

from .gradient_check import (
    Setting,
    build,
    case,
    constant,
    differentiate,
    each,
    equals_central_difference,
    equals_torch,
    is_adjoint,
)

X = (2, 3, 5, 7)


def resized(attributes="", *, x=X, scales=None, sizes=None, roi="", torch=None, opsets=(18, 19), **options):
    """A row of Resize whose scales, sizes and roi are constants of the graph, in float32."""
    text = ""
    for name, values in {"scales": scales, "roi": roi or None}.items():
        if values is not None:
            text += f"{name} = Constant<value_floats=[{', '.join(str(float(v)) for v in values)}]>(); "
    if sizes is not None:
        text += f"sizes = Constant<value_ints=[{', '.join(map(str, sizes))}]>(); "
    last = "scales" if sizes is None else ", sizes"
    attributes = f"<{attributes}>" if attributes else ""
    return case(f"{text}y = Resize{attributes}(x, {'roi' if roi else ''}, {last})", x=x, torch=torch, opsets=opsets)


def to(*size, **options):
    return lambda x, *_: F.interpolate(x, size=size, **options)


COORDINATES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric")
HALF, CORNERS, TORCH, TENSORFLOW = (
    f'coordinate_transformation_mode="{mode}"'
    for mode in ("half_pixel", "align_corners", "pytorch_half_pixel", "tf_crop_and_resize")
)
BY_INDEX = 'coordinate_transformation_mode="asymmetric", nearest_mode="floor"'  # torch's "nearest"
EXACT = 'nearest_mode="round_prefer_ceil"'  # torch's "nearest-exact"
NEAREST = [
    resized(BY_INDEX, scales=[1, 1, 2, 3], torch=lambda x: F.interpolate(x, scale_factor=(2, 3))),
    resized(BY_INDEX, sizes=[2, 3, 10, 14], torch=to(10, 14)),
    resized(BY_INDEX, sizes=[2, 3, 10, 7], torch=to(10, 7)),
    resized(BY_INDEX, sizes=[2, 3, 8, 4], torch=to(8, 4)),
    resized(BY_INDEX, x=(2, 3, 7), scales=[1, 1, 3], torch=lambda x: F.interpolate(x, scale_factor=3)),
    resized(BY_INDEX, x=(1, 2, 3, 5, 2), sizes=[1, 2, 6, 5, 4], torch=to(6, 5, 4)),
    resized(EXACT, sizes=[2, 3, 8, 4], torch=to(8, 4, mode="nearest-exact")),
    resized(EXACT, sizes=[2, 3, 15, 7], torch=to(15, 7, mode="nearest-exact")),
    resized("axes=[1, 0]", x=(3, 5), sizes=[10, 4], opsets=(18, 19)),
    resized(scales=[2, 1, 1, 3]),
    *(
        resized(
            f'coordinate_transformation_mode="{coordinates}", nearest_mode="{nearest}"', x=(1, 1, 5, 7), sizes=sizes
        )
        for coordinates in COORDINATES
        for nearest in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        for sizes in ([1, 1, 10, 21], [1, 1, 8, 4])
        if coordinates != "half_pixel_symmetric" or sizes[3] == 4
    ),
    *(
        resized(f'coordinate_transformation_mode="{coordinates}"', x=(1, 1, 5, 7), scales=[1, 1, 1.3, 0.45])
        for coordinates in COORDINATES
    ),
]
SMOOTH = [
    *(
        resized(
            f'mode="{mode}", {coordinates}, cubic_coeff_a=-0.75', **size,
            torch=to(*size.get("sizes", [2, 3, 10, 21])[2:], mode=f"bi{mode}", align_corners=coordinates == CORNERS),
        )
        for mode in ("linear", "cubic")
        for coordinates in (HALF, CORNERS, TORCH)
        for size in ({"scales": [1, 1, 2, 3]}, {"sizes": [2, 3, 8, 4]}, {"sizes": [2, 3, 1, 7]})
        if coordinates != TORCH or size != {"sizes": [2, 3, 1, 7]}  # which torch no longer does
    ),
    *(
        resized(f'mode="{mode}", coordinate_transformation_mode="{coordinates}"', x=(1, 1, 5, 7), **size)
        for mode in ("linear", "cubic")
        for coordinates in COORDINATES
        for size in ({"scales": [1, 1, 1.3, 0.45]}, {"sizes": [1, 1, 3, 9]})
    ),
    *(
        # torch leaves out what lies outside
        resized(f'mode="{mode}", antialias=1, exclude_outside=1', sizes=[2, 3, *size],
                torch=to(*size, mode=f"bi{mode}", antialias=True))
        for mode, size in (("linear", (3, 4)), ("linear", (8, 3)))
    ),
    resized('mode="cubic", antialias=1, cubic_coeff_a=-0.5, exclude_outside=1', sizes=[2, 3, 3, 4],
            torch=to(3, 4, mode="bicubic", antialias=True)),
    resized('mode="linear", antialias=1', sizes=[2, 3, 3, 4]),
    resized('mode="cubic", antialias=1', sizes=[2, 3, 3, 4]),
    resized(f'mode="linear", {TORCH}', sizes=[2, 3, 1, 7]),
    resized('mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5', scales=[1, 1, 0.7, 1.6]),
    resized('mode="linear"', x=(5, 7), sizes=[3, 9]),
    resized('mode="linear"', x=(2, 3, 7), sizes=[2, 3, 4], torch=to(4, mode="linear")),
    resized('mode="linear"', x=(1, 2, 3, 5, 4), sizes=[1, 2, 5, 4, 6], torch=to(5, 4, 6, mode="trilinear")),
    resized('mode="linear"', x=(2, 5, 7, 3), sizes=[2, 8, 4, 3]),  # channels last
    resized('mode="linear", axes=[3, 2]', sizes=[4, 8], torch=to(8, 4, mode="bilinear")),
    resized('mode="linear", axes=[2]', sizes=[8], torch=to(8, 7, mode="bilinear")),
    resized('mode="linear", axes=[2, 3]', scales=[2, 3], torch=to(10, 21, mode="bilinear")),
    *(
        resized(f'mode="{mode}", axes=[2, 3], keep_aspect_ratio_policy="{policy}"', sizes=sizes)
        for mode in ("nearest", "linear")
        for policy in ("not_larger", "not_smaller")
        for sizes in ([8, 9], [3, 12])
    ),
    resized('mode="linear", axes=[2], keep_aspect_ratio_policy="not_larger"', sizes=[8]),
]  # fmt: skip
CROPPED = [
    *(
        resized(f'mode="{mode}", {TENSORFLOW}, extrapolation_value=7.0', sizes=[2, 3, 4, 9], roi=roi)
        for mode in ("nearest", "linear", "cubic")
        for roi in ([0, 0, 0.2, 0.1, 1, 1, 0.9, 0.6], [0, 0, -0.2, 0.3, 1, 1, 0.7, 1.4])
    ),
    resized(f'mode="linear", {TENSORFLOW}, axes=[2, 3]', scales=[0.6, 1.0], roi=[0.2, 0.1, 0.9, 0.6]),
    resized(f'mode="linear", {TENSORFLOW}', sizes=[2, 3, 1, 7], roi=[0, 0, 0.2, 0, 1, 1, 0.5, 1]),
]
FED = [
    case('Resize<mode="linear">(x, , , sizes)', x=X, sizes=np.array([2, 3, 8, 4]), static=["sizes"],
         torch=to(8, 4, mode="bilinear"), opsets=(18, 19)),
    case('s = Cast<to=1>(scales); y = Resize<mode="linear">(x, , s)', x=X, scales=np.array([1, 1, 2, 3]),
         static=["scales"], torch=to(10, 21, mode="bilinear"), opsets=(18, 19)),
    case('n = Shape<end=2>(x); s = Concat<axis=0>(n, hw); y = Resize<mode="linear">(x, , , s)', x=X,
         hw=constant([8, 4]), torch=to(8, 4, mode="bilinear"), opsets=(18, 19)),
]  # fmt: skip
CASES = NEAREST + SMOOTH + CROPPED + FED


@each(CASES)
def test_gradient_equals_central_difference(row, setting):
    equals_central_difference(row, setting)


@each([row for row in CASES if row.torch])
def test_gradient_equals_torch(row, setting):
    equals_torch(row, setting)


@each(CASES)
def test_is_the_adjoint_in_onnxruntime(row, setting):
    is_adjoint(row, setting)


@pytest.mark.parametrize(
    ("row", "setting", "operators"),
    [
        (NEAREST[0], Setting(), ["Reshape", "ReduceSum"]),
        (NEAREST[0], Setting(dynamic=True), ["Shape", "Shape", "Concat", "Reshape", "ReduceSum"]),
        (NEAREST[1], Setting(), ["Reshape", "ReduceSum"]),
        (resized(sizes=X), Setting(), ["Identity"]),
    ],
    ids=str,
)
def test_operators_of_the_gradient(row, setting, operators):
    model = build(row, setting)
    forward = len(model.graph)
    found = [node.op_type for node in differentiate(model, row.wrt).graph.node]
    assert found[forward:] == operators


def test_kept_aspect_over_three_axes_is_refused():
    row = resized('axes=[1, 2, 3], keep_aspect_ratio_policy="not_larger"', sizes=[6, 8, 9])
    with pytest.raises(UnsupportedOperatorError, match="keep_aspect_ratio_policy is covered for two axes"):
        differentiate(build(row), row.wrt)
