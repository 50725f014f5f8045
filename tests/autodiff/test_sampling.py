from __future__ import annotations

import torch.nn.functional as F  # noqa: N812  its usual name

from .gradient_check import case, constant, each, equals_central_difference, equals_torch

CASES = [
    case("Col2Im(x, i, b)", x=(2, 12, 12), i=constant([4, 5]), b=constant([2, 2]),
         torch=lambda x: F.fold(x, (4, 5), 2)),
    case(
        "Col2Im<strides=[2,1], pads=[1,0,1,0], dilations=[1,2]>(x, i, b)", x=(2, 18, 15), i=constant([5, 7]),
        b=constant([3, 2]), torch=lambda x: F.fold(x, (5, 7), (3, 2), dilation=(1, 2), padding=(1, 0), stride=(2, 1)),
    ),
    case("Col2Im<pads=[1,0,0,2]>(x, i, b)", x=(1, 4, 16), i=constant([4, 3]), b=constant([2, 2])),
    case("Col2Im(x, i, b)", x=(2, 6, 36), i=constant([3, 4, 4]), b=constant([1, 2, 1])),
]  # fmt: skip


@each(CASES)
def test_gradient_equals_central_difference(row, setting):
    equals_central_difference(row, setting)


@each(CASES)
def test_gradient_equals_torch(row, setting):
    equals_torch(row, setting)
