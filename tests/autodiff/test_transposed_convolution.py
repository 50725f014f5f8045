"""ConvTranspose and Col2Im, which add blocks up."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch.nn.functional as F  # noqa: N812  its usual name
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcam.errors import AutodiffError

from .gradient_check import (
    Setting,
    build,
    case,
    constant,
    differentiate,
    each,
    edge,
    equals_central_difference,
    equals_torch,
    has_edge_values,
)

CONVS = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def conv_transpose(x, w, *, strides=None, pads=None, dilations=None, more=None, shape=None, auto_pad="", group=1, **b):
    """A ConvTranspose; PyTorch pads and cuts the full result in a step of its own."""
    rank = len(x) - 2
    text = [f"group={group}"]
    text += [f"strides={strides}"] if strides else []
    text += [f"pads={pads}"] if pads else []
    text += [f"dilations={dilations}"] if dilations else []
    text += [f"output_padding={more}"] if more else []
    text += [f"output_shape={shape}"] if shape else []
    text += [f'auto_pad="{auto_pad}"'] if auto_pad else []
    strides, dilations, more = strides or [1] * rank, dilations or [1] * rank, more or [0] * rank
    pads = pads or [0] * (2 * rank)

    def of_torch(x, w, b=None):
        full = CONVS[rank](x, w, None, strides, 0, 0, group, dilations)
        sides = []
        for i in reversed(range(rank)):
            length, begin, end = full.shape[2 + i] + more[i], pads[i], pads[i + rank]
            if shape or auto_pad.startswith("SAME"):
                wanted = shape[i] if shape else x.shape[2 + i] * strides[i]
                total = max(length - wanted, 0)
                begin = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
                end = length - wanted - begin
            sides += [-begin, more[i] - end]
        y = F.pad(full, sides)
        return y if b is None else y + b.reshape(-1, *[1] * rank)

    inputs = ", ".join(["x", "w", *b])
    static = ["w", *b, *(["x"] if shape else [])]
    text = f"ConvTranspose<{', '.join(text)}>({inputs})"
    return case(text, x=x, w=w, torch=of_torch, static=static, opsets=(18, 22), **b)


CASES = [
    conv_transpose((2, 4, 3, 5), (4, 3, 3, 2), b=(3,)),
    conv_transpose((2, 4, 3, 5), (4, 3, 2, 2), strides=[2, 2], b=(3,)),
    conv_transpose((2, 4, 3, 5), (4, 3, 3, 2), strides=[2, 3], pads=[1, 0, 1, 0], more=[1, 0]),
    conv_transpose((2, 4, 3, 5), (4, 3, 3, 4), strides=[2, 3], pads=[1, 0, 0, 2], more=[1, 2], b=(3,)),
    conv_transpose((2, 4, 3, 5), (4, 3, 3, 2), group=2, dilations=[2, 1], b=(6,)),
    conv_transpose((2, 4, 3, 5), (4, 1, 4, 4), group=4, strides=[2, 2], pads=[1, 1, 1, 1]),
    conv_transpose((2, 6, 3, 5), (6, 2, 3, 2), group=3, strides=[2, 1], dilations=[2, 3], pads=[0, 1, 2, 0]),
    conv_transpose((2, 4, 5), (4, 3, 3), strides=[2], pads=[0, 1], more=[1], b=(3,)),
    conv_transpose((2, 4, 2, 3, 4), (4, 2, 2, 3, 2), group=2, strides=[2, 1, 2], pads=[0, 1, 0, 0, 0, 1], b=(4,)),
    *(
        conv_transpose((2, 4, 3, 5), (4, 3, 3, 4), strides=[2, 3], auto_pad=pad)
        for pad in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    conv_transpose((2, 4, 3, 5), (4, 3, 4, 3), strides=[2, 2], shape=[6, 10]),
    conv_transpose((2, 4, 3, 5), (4, 3, 4, 3), strides=[2, 2], shape=[6, 10], more=[1, 1]),
    conv_transpose((2, 4, 3, 5), (4, 3, 4, 3), strides=[2, 2], shape=[5, 9], auto_pad="SAME_UPPER", group=2),
    conv_transpose((2, 4, 3, 5), (4, 3, 2, 3), strides=[2, 2], shape=[7, 11]),  # longer than the windows reach
    case(
        "w = Mul(v, s); y = ConvTranspose<strides=[2,1]>(x, w)",
        x=(2, 4, 3, 5), v=(4, 3, 3, 2), s=(4, 1, 1, 1), static=["v", "s"],
        torch=lambda x, v, s: F.conv_transpose2d(x, v * s, None, (2, 1)),
    ),
]  # fmt: skip


def col2im(x, image, block, strides=None, pads=None, dilations=None, like_torch=True):
    rank = len(image)
    text = [f"strides={strides or [1] * rank}"]
    text += [f"pads={pads}"] if pads else []
    text += [f"dilations={dilations}"] if dilations else []
    of_torch = functools.partial(
        F.fold,
        output_size=image,
        kernel_size=block,
        stride=strides or 1,
        padding=pads[:rank] if pads else 0,
        dilation=dilations or 1,
    )
    return case(
        f"Col2Im<{', '.join(text)}>(x, image, block)",
        x=x, image=constant(image), block=constant(block), torch=of_torch if like_torch else None,
    )  # fmt: skip


FOLDS = [
    col2im((2, 12, 20), [5, 6], [2, 2]),
    col2im((2, 6, 12), [6, 8], [2, 3], [2, 2], [0, 1, 0, 1]),
    col2im((1, 12, 9), [7, 8], [3, 2], [2, 2], [1, 0, 1, 0], [2, 3]),
    col2im((2, 12, 12), [5, 7], [3, 2], [1, 2], [0, 1, 0, 0], like_torch=False),
    col2im((2, 16, 8), [3, 3, 3], [2, 2, 2], like_torch=False),
]


@each(CASES + FOLDS)
def test_gradient_equals_central_difference(row, setting):
    equals_central_difference(row, setting)


@each([row for row in CASES + FOLDS if row.torch])
def test_gradient_equals_torch(row, setting):
    equals_torch(row, setting)


EDGES = [
    edge(
        "ConvTranspose<strides=[2], output_padding=[1]>(x, w)", "leaves the padded end unread",
        x=[[[1.0, 2]]], w=[[[10.0, 20]]], dy=[[[1.0, 2, 3, 4, 100]]],
        dx=[[[50, 110]]], dw=[[[7, 10]]], torch=functools.partial(F.conv_transpose1d, stride=2, output_padding=1),
    ),
    edge(
        "ConvTranspose<strides=[2], output_shape=[3]>(x, w)", "cuts the beginning first",
        x=[[[1.0, 2]]], w=[[[10.0, 20]]], dy=[[[1.0, 2, 3]]], dx=[[[20, 80]]], dw=[[[4, 7]]],
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", EDGES, ids=str)
def test_special_values(row):
    has_edge_values(row)


pair = st.tuples(st.integers(1, 3), st.integers(1, 3)).map(list)


@settings(max_examples=25, derandomize=True, deadline=None)
@given(data=st.data(), kernel=pair, strides=pair, dilations=pair, size=pair, dynamic=st.booleans())
def test_gradient_equals_torch_for_any_geometry(data, kernel, strides, dilations, size, dynamic):
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    group, outs, ins = (data.draw(st.integers(1, 2)) for _ in range(3))
    more = [data.draw(st.integers(0, s - 1)) for s in strides]
    auto_pad = data.draw(st.sampled_from(["", "", "", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    pads = None if auto_pad else [data.draw(st.integers(0, min(2, (extents[i % 2] - 1) // 2))) for i in range(4)]
    if auto_pad.startswith("SAME"):  # otherwise ONNX Runtime's y is not as long as onnx infers
        more = None
        kernel = [max(k, s) for k, s in zip(kernel, strides, strict=True)]
    x, w = (2, group * ins, *size), (group * ins, outs, *kernel)
    row = conv_transpose(
        x, w, strides=strides, pads=pads, dilations=dilations, more=more, auto_pad=auto_pad, group=group
    )
    equals_torch(row, Setting(dynamic=dynamic))


def test_output_shape_of_an_input_of_unknown_size_is_refused():
    row = case("ConvTranspose<output_shape=[6,8]>(x, w)", x=(2, 4, 3, 5), w=(4, 3, 4, 4), static=["w"])
    with pytest.raises(AutodiffError, match="output_shape needs static sizes"):
        differentiate(build(row, Setting(dynamic=True)), ["x"])


def test_block_of_unknown_shape_is_refused():
    row = case("Col2Im(x, image, block)", x=(2, 12, 20), image=constant([5, 6]), block=np.array([2, 2]))
    with pytest.raises(AutodiffError, match="block_shape must be known when the graph is built"):
        differentiate(build(row), ["x"])
