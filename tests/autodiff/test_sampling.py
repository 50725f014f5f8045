from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch.nn.functional as F  # noqa: N812  its usual name

from onnxcam.errors import UnsupportedOperatorError

from .gradient_check import (
    NEWEST,
    build,
    case,
    constant,
    differentiate,
    each,
    equals_central_difference,
    equals_torch,
    is_adjoint,
    uniform,
)

WINDOWS = [
    case("Col2Im(x, i, b)", x=(2, 12, 12), i=constant([4, 5]), b=constant([2, 2]),
         torch=lambda x: F.fold(x, (4, 5), 2)),
    case(
        "Col2Im<strides=[2,1], pads=[1,0,1,0], dilations=[1,2]>(x, i, b)", x=(2, 18, 15), i=constant([5, 7]),
        b=constant([3, 2]), torch=lambda x: F.fold(x, (5, 7), (3, 2), dilation=(1, 2), padding=(1, 0), stride=(2, 1)),
    ),
    case("Col2Im<pads=[1,0,0,2]>(x, i, b)", x=(1, 4, 16), i=constant([4, 3]), b=constant([2, 2])),
    case("Col2Im(x, i, b)", x=(2, 6, 36), i=constant([3, 4, 4]), b=constant([1, 2, 1])),
]  # fmt: skip


def sampled(mode, padding, corners, *, x=(2, 3, 5, 7), grid=(2, 4, 3, 2), opsets=(20, 22), reach=1.4):
    names = {"linear": "bilinear", "nearest": "nearest"}
    other = functools.partial(F.grid_sample, mode=names[mode], padding_mode=padding, align_corners=bool(corners))
    return case(
        f'GridSample<mode="{mode}", padding_mode="{padding}", align_corners={corners}>(x, g)',
        x=x, g=uniform(-reach, reach, *grid), torch=other, opsets=opsets,
        float64="onnxruntime",  # the reference evaluator rounds the places to float32
    )  # fmt: skip


GRIDS = [
    *(
        sampled(mode, padding, corners)
        for mode in ("linear", "nearest")
        for padding in ("zeros", "border", "reflection")
        for corners in (0, 1)
    ),
    sampled("linear", "reflection", 0, reach=6.0),
    sampled("linear", "zeros", 0, x=(1, 2, 3, 5, 4), grid=(1, 2, 4, 3, 3)),
    sampled("linear", "border", 1, x=(2, 3, 1, 7)),
    *(
        case(f"AffineGrid<align_corners={corners}>(t, size)", t=(2, 2, 3), size=constant([2, 3, 5, 7]),
             opsets=(20, NEWEST), float64="onnxruntime",  # the reference evaluator rounds to float32
             torch=lambda t, corners=bool(corners): F.affine_grid(t, [2, 3, 5, 7], align_corners=corners))
        for corners in (0, 1)
    ),
    case("AffineGrid(t, size)", t=(2, 3, 4), size=np.array([2, 1, 3, 5, 4]),
         static=["size"], opsets=(20, NEWEST), float64="onnxruntime",
         torch=lambda t, _: F.affine_grid(t, [2, 1, 3, 5, 4], align_corners=False)),
]  # fmt: skip
REGIONS = np.array([[0.5, 1, 6, 4.2], [2, 0.3, 2.5, 3], [-2, -3, 20, 9]])
PICTURES = np.array([1, 0, 1])
ALIGNED = [
    case(f"RoiAlign<{attributes}>(x, rois, b)", x=(2, 3, 5, 7), rois=constant(REGIONS), b=PICTURES, opsets=(18, 22))
    for attributes in (
        "output_height=2, output_width=3, sampling_ratio=2",
        "output_height=2, output_width=3, spatial_scale=0.5",
        'output_height=3, output_width=1, spatial_scale=0.7, coordinate_transformation_mode="output_half_pixel"',
    )
]  # fmt: skip
CASES = WINDOWS + GRIDS + ALIGNED
OLD = [  # the reference evaluator knows the newer names of modes alone, ONNX Runtime float32
    case(f'GridSample<mode="{mode}", align_corners=1>(x, g)', x=(2, 3, 5, 7), g=uniform(-1.2, 1.2, 2, 4, 3, 2),
         opsets=(18, 18), torch=lambda x, g, mode=mode: F.grid_sample(x, g, mode, align_corners=True))
    for mode in ("bilinear", "nearest")
]  # fmt: skip


@each(CASES)
def test_gradient_equals_central_difference(row, setting):
    equals_central_difference(row, setting)


@each(CASES + OLD)
def test_gradient_equals_torch(row, setting):
    equals_torch(row, setting)


@each([dataclasses.replace(row, opsets=(18, 18)) for row in ALIGNED])  # ONNX Runtime has no kernel of version 22
def test_is_the_adjoint_in_onnxruntime(row, setting):
    is_adjoint(row, setting)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (case('GridSample<mode="cubic">(x, g)', x=(1, 1, 3, 5), g=(1, 2, 2, 2), opsets=(20, 20)), "cubic"),
        (dataclasses.replace(ALIGNED[0], text='RoiAlign<mode="max">(x, rois, b)'), "mode max"),
        (case("Col2Im(x, i, b)", x=(2, 12, 12), i=constant([4, 5]), b=np.array([2, 2]), wrt=["x"]), "block_shape"),
    ],
)
def test_refused(row, why):
    with pytest.raises(UnsupportedOperatorError, match=why):
        differentiate(build(row), ["x"])
