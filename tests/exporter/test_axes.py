"""Where the places of a feature map are is found in the graph; the map shows what was where in the picture."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxcam
from onnxcam.errors import LayerError
from onnxcam.exporter.axes import find_layouts
from onnxcam.exporter.layout import Layout, parse_layout

from .graphs import model, run, save


def layouts(text: str, **weights) -> dict[str, str]:
    """The layouts of a graph's values, those of tokens with their grid."""
    proto = onnx.shape_inference.infer_shapes(model(text, **weights), data_prop=True)
    return {
        value.name: f"{layout} {layout.grid}" if layout.grid else str(layout)
        for value, layout in find_layouts(ir.from_proto(proto).graph).items()
    }


def test_a_picture_is_channels_first_unless_few_channels_are_last():
    assert layouts("g (float[N,3,9,7] x) => (y) { y = Relu (x) }") == {"x": "NCHW", "y": "NCHW"}
    assert layouts("g (float[N,9,7,3] x) => (y) { y = Relu (x) }") == {"x": "NHWC", "y": "NHWC"}
    assert layouts("g (float[N,1,9,3] x) => (y) { y = Relu (x) }") == {"x": "NCHW", "y": "NCHW"}
    assert layouts("g (float[N,9,7] x) => (y) { y = Relu (x) }") == {}


def test_one_place_is_no_layout():
    assert layouts("g (float[N,3,9,7] x) => (y) { y = GlobalAveragePool (x) }") == {"x": "NCHW"}
    assert layouts("g (float[N,3,9,1] x) => (y) { y = Relu (x) }") == {"x": "NCHW", "y": "NCHW"}


def test_channels_last_between_transposes():
    text = """g (float[N,9,7,3] x) => (y) {
        t = Transpose<perm=[0,3,1,2]> (x)
        c = Conv (t, w)
        u = Transpose<perm=[0,2,3,1]> (c)
        b = Add (u, bias)
        y = Relu (b)
    }"""
    assert layouts(text, w=(5, 3, 3, 3), bias=(5,)) == {
        **dict.fromkeys("xuby", "NHWC"),
        **dict.fromkeys("tc", "NCHW"),
    }


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_tokens_with_others_in_front(extra):
    join = "j = Concat<axis=1> (more, t)\n" if extra else "j = Identity (t)\n"
    text = f"""g (float[1,3,10,6] x) => (y) {{
        c = Conv<strides=[2,2]> (x, w)
        r = Reshape (c, shape)
        t = Transpose<perm=[0,2,1]> (r)
        {join}
        p = Add (j, position)
        y = Gelu (p)
    }}"""
    weights = {"more": (1, extra, 8)} if extra else {}
    text = text.replace("Gelu", "Relu")
    found = layouts(text, w=(8, 3, 2, 2), shape=[1, 8, 15], position=(1, 15 + extra, 8), **weights)
    assert found["c"] == "NCHW"
    assert found["t"] == "tokens:0 (5, 3)"
    assert found["y"] == f"tokens:{extra} (5, 3)"
    assert "r" not in found


def test_tokens_become_a_map_again():
    text = """g (float[1,3,10,6] x) => (y) {
        c = Conv<strides=[2,2]> (x, w)
        r = Reshape (c, flat)
        t = Transpose<perm=[0,2,1]> (r)
        m = MatMul (t, k)
        u = Transpose<perm=[0,2,1]> (m)
        b = Reshape (u, grid)
        l = Reshape (m, last)
        y = Conv (b, w2)
    }"""
    found = layouts(
        text, w=(8, 3, 2, 2), flat=[1, 8, 15], k=(8, 4), grid=[1, 4, 5, 3], last=[1, 5, 3, 4], w2=(2, 4, 1, 1)
    )
    assert found == {
        "x": "NCHW", "c": "NCHW", "t": "tokens:0 (5, 3)", "m": "tokens:0 (5, 3)", "b": "NCHW", "l": "NHWC", "y": "NCHW"
    }  # fmt: skip


def test_windows_are_put_together_again():
    text = """g (float[1,8,6,10] x) => (y) {
        a = Transpose<perm=[0,2,3,1]> (x)
        b = Reshape (a, split)
        c = Transpose<perm=[0,1,3,2,4,5]> (b)
        w = Reshape (c, windows)
        m = MatMul (w, k)
        d = Reshape (m, parts)
        e = Transpose<perm=[0,1,3,2,4,5]> (d)
        y = Reshape (e, whole)
    }"""
    found = layouts(
        text, split=[1, 2, 3, 5, 2, 8], windows=[10, 6, 8], k=(8, 8), parts=[1, 2, 5, 3, 2, 8], whole=[1, 6, 10, 8]
    )
    assert {name: found.get(name) for name in "abcwdey"} == {"a": "NHWC", "y": "NHWC"} | dict.fromkeys("bcwde")


def value(*shape: int) -> ir.Value:
    return ir.Value(name="v", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))


def test_a_layout_that_is_named_goes_before_what_was_found():
    assert parse_layout("nhwc", value(1, 4, 5, 6), Layout("NCHW")) == Layout("NHWC")
    assert parse_layout("tokens:1", value(1, 10, 6), None) == Layout("tokens", 1, (3, 3))
    assert parse_layout("tokens", value(1, 9, 6), None) == Layout("tokens", 0, (3, 3))
    assert parse_layout("tokens:2", value(1, 17, 6), Layout("tokens", 2, (5, 3))) == Layout("tokens", 2, (5, 3))


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("tokens:1", (1, 9, 6), "9 tokens, and without 1 they fill no square grid"),
        ("tokens:x", (1, 9, 6), "no layout 'tokens:x'"),
        ("NCHW", (1, 9, 6), "has 3 axes, and NCHW 4"),
        ("tokens:9", (1, 9, 6), "fill no square grid"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(text, shape, message):
    with pytest.raises(LayerError, match=message):
        parse_layout(text, value(*shape), None)


BRIGHT = (3, 1)
"""Row and column of the bright patch in a grid of 5×3."""


def bright(shape: tuple[int, ...], rows: int, columns: int) -> np.ndarray:
    """A dark picture in which the patch of 2×2 pixels at `BRIGHT` is lit."""
    image = np.zeros(shape, np.float32)
    at = [slice(None)] * 4
    at[rows], at[columns] = slice(2 * BRIGHT[0], 2 * BRIGHT[0] + 2), slice(2 * BRIGHT[1], 2 * BRIGHT[1] + 2)
    image[tuple(at)] = 1
    return image


ALIGNED = {
    "NCHW": "last = Relu (c)\n m = ReduceMean<keepdims=0> (last, places)",
    "NHWC": "h = Transpose<perm=[0,2,3,1]> (c)\n last = Relu (h)\n m = ReduceMean<keepdims=0> (last, places)",
    "tokens:0": "r = Reshape (c, flat)\n t = Transpose<perm=[0,2,1]> (r)\n last = Relu (t)\n"
    "m = ReduceMean<keepdims=0> (last, places)",
    "tokens:2": "r = Reshape (c, flat)\n t = Transpose<perm=[0,2,1]> (r)\n j = Concat<axis=1> (two, t)\n"
    "last = Relu (j)\n m = ReduceMean<keepdims=0> (last, places)",
}
PLACES = {"NCHW": [2, 3], "NHWC": [1, 2], "tokens:0": [1], "tokens:2": [1]}


@pytest.mark.parametrize("picture", ["NCHW", "NHWC"])
@pytest.mark.parametrize("layout", ALIGNED)
def test_what_is_bright_in_the_picture_is_bright_in_the_map(tmp_path, layout, picture):
    start = "c = Conv<strides=[2,2]> (image, w)"
    shape = (1, 3, 10, 6)
    if picture == "NHWC":
        start = start.replace("image", "i").replace("c =", "i = Transpose<perm=[0,3,1,2]> (image)\n c =")
        shape = (1, 10, 6, 3)
    text = f"""net (float[{",".join(map(str, shape))}] image) => (float[1,5] logits) {{
        {start}
        {ALIGNED[layout]}
        logits = MatMul (m, fc)
    }}"""
    weights = {
        "w": np.full((4, 3, 2, 2), 0.1, np.float32) * np.arange(1, 5, dtype=np.float32)[:, None, None, None],
        "fc": np.abs(np.random.default_rng(0).standard_normal((4, 5))).astype(np.float32),
        "flat": [1, 4, 15],
        "two": np.full((1, 2, 4), 50, np.float32),
        "places": PLACES[layout],
    }
    used = {name: content for name, content in weights.items() if name in text}
    methods = ["gradcam"] if layout == "tokens:2" else ["gradcam", "cam"]
    path = onnxcam.attach(save(tmp_path / "m.onnx", model(text, **used)), layer="last", method=methods).path
    rows, columns = (2, 3) if picture == "NCHW" else (1, 2)
    got = run(path, image=bright(shape, rows, columns))
    assert got["cam"].shape == (1, 5, 3)
    assert np.argwhere(got["cam"][0] > 0).tolist() == [list(BRIGHT)]
    if layout != "tokens:2":
        np.testing.assert_allclose(got["cam.cam"] / 15, got["cam"], rtol=1e-5)


def test_a_named_layout_turns_the_map(tmp_path):
    """A square channels-last map that is called channels-first has its places elsewhere."""
    text = """net (float[1,3,8,8] image) => (float[1,5] logits) {
        c = Conv<strides=[2,2]> (image, w)
        last = Relu (c)
        m = ReduceMean<keepdims=0> (last, places)
        logits = MatMul (m, fc)
    }"""
    source = save(tmp_path / "m.onnx", model(text, w=(6, 3, 2, 2), places=[2, 3], fc=(6, 5)))
    found = onnxcam.attach(source, layer="last").info.layers[0]
    named = onnxcam.attach(source, layer="last", layout="NHWC").info.layers[0]
    assert (found.layout, named.layout) == ("NCHW", "NHWC")
    image = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    assert run(tmp_path / "m.cam.onnx", image=image)["cam"].shape == (1, 6, 4)
