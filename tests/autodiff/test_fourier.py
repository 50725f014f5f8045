from __future__ import annotations

import pytest
import torch

from onnxcam.autodiff import gradients
from onnxcam.errors import UnsupportedOperatorError

from .gradient_check import NEWEST, build, case, constant, each, equals_central_difference, equals_torch

VERSION_17, VERSION_20 = (18, 19), (20, NEWEST)
AXIS = constant(1)


def _transform(of, *args):
    """``of`` of the complex numbers in the last axis, along axis 1."""
    return lambda x: torch.view_as_real(of(torch.view_as_complex(x), *args, dim=1))


def _of_real(of, *args):
    """``of`` of real numbers, along axis 1."""
    return lambda x: torch.view_as_real(of(x.squeeze(-1), *args, dim=1))


fft, ifft, rfft = torch.fft.fft, torch.fft.ifft, torch.fft.rfft

CASES = [
    case("DFT(x)", x=(2, 5, 2), opsets=VERSION_17, static=("x",), torch=_transform(fft)),
    case("DFT<axis=-2, inverse=1>(x)", x=(2, 5, 2), opsets=VERSION_17, static=("x",), torch=_transform(ifft)),
    case("DFT<onesided=1>(x)", x=(2, 6, 3, 1), opsets=VERSION_17, static=("x",), torch=_of_real(rfft)),
    case("DFT(x, n)", x=(2, 5, 2), n=constant(7), opsets=VERSION_17, static=("x",), torch=_transform(fft, 7)),
    case("DFT(x)", x=(2, 5, 2), opsets=VERSION_20, static=("x",), torch=_transform(fft)),
    case("DFT(x, , axis)", x=(2, 4, 3, 2), axis=AXIS, opsets=VERSION_20, static=("x",), torch=_transform(fft)),
    case("DFT<inverse=1>(x, , axis)", x=(2, 5, 2), axis=AXIS, opsets=VERSION_20, static=("x",), torch=_transform(ifft)),
    *(  # cut, and filled up with zeros
        case(f"DFT{how}(x, n)", x=shape, n=constant(n), opsets=VERSION_20, static=("x",), torch=of)
        for n in (3, 7, 8)
        for how, shape, of in [
            ("", (2, 5, 2), _transform(fft, n)),
            ("<inverse=1>", (2, 5, 2), _transform(ifft, n)),
            ("", (2, 5, 1), _of_real(fft, n)),
            ("<onesided=1>", (2, 5, 1), _of_real(rfft, n)),
        ]
    ),
    case("DFT<onesided=1>(x)", x=(2, 6, 1), opsets=VERSION_20, static=("x",), torch=_of_real(rfft)),
]


@each(CASES)
def test_gradient_equals_central_difference(row, setting):
    equals_central_difference(row, setting)


@each(CASES)
def test_gradient_equals_torch(row, setting):
    equals_torch(row, setting)


def test_the_one_sided_inverse_is_refused():
    model = build(case("DFT<inverse=1, onesided=1>(x)", x=(2, 5, 2), opsets=VERSION_20))
    with pytest.raises(UnsupportedOperatorError, match="the one-sided inverse is not covered"):
        gradients(model, of=model.graph.outputs[0], wrt=[model.graph.inputs[0]])
