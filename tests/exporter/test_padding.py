"""Values padded late: the same numbers, from the rows alone that are not zero."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxcam
from onnxcam.exporter import simplification
from onnxcam.exporter.padding import pad_late

from .graphs import assert_same, model, random, rewritten, run, save

ROW = "net (float[2,1,6] v, float[2,5,6] x) => ({} y)"
PADS = [0, 1, 0, 0, 3, 0]
"""Row 1 of 5."""


def late(text: str, **weights) -> tuple[onnx.ModelProto, ir.Graph]:
    return rewritten(pad_late, text, **weights)


def lines(nodes: str) -> str:
    return nodes.replace("; ", "\n")


@pytest.mark.parametrize(
    ("size", "nodes", "weights"),
    [
        ("float[2,5,6]", "b = Mul (a, x); c = Neg (b); y = Add (c, x)", {}),
        ("float[2,5,6]", "b = Mul (w, a); y = Add (b, x)", {"w": (1, 6)}),
        ("float[5,6,2]", "t = Transpose <perm=[1,2,0]> (a); u = Transpose <perm=[1,2,0]> (x); y = Add (t, u)", {}),
        ("float[2,5,6]", "b = Mul (w, a); c = Div (b, e); y = Sub (x, c)", {"w": (6,), "e": (5, 1)}),
        ("float[2,5,6]", "m = ReduceMean (a, last); b = Mul (x, m); c = Sub (a, b); y = Add (c, x)", {"last": [-1]}),
        ("float[2,5,4]", "b = MatMul (a, w); c = MatMul (x, w); y = Add (b, c)", {"w": (6, 4)}),
        ("float[2,4,6]", "b = MatMul (w, a); y = Abs (b)", {"w": (4, 5)}),
        ("float[2,6,6]", "t = Transpose <perm=[0,2,1]> (a); b = MatMul (t, x); y = Abs (b)", {}),
        ("float[2,4,5]", "t = Transpose <perm=[0,2,1]> (a); b = MatMul (w, t); y = Abs (b)", {"w": (4, 6)}),
        ("float[2,1,6]", "b = ReduceSum (a, middle); y = Neg (b)", {"middle": [1]}),
        ("float[2,5,1,6]", "b = Reshape (a, s); c = Unsqueeze (x, two); y = Add (b, c)",
         {"s": [0, 5, 1, 6], "two": [2]}),
        ("float[2,3,5,2]", "b = Reshape (a, s); t = Transpose <perm=[0,2,1,3]> (b); y = Add (t, t)",
         {"s": [-1, 5, 3, 2]}),
        ("float[1,2,5,6]", "b = Unsqueeze (a, zero); c = Squeeze (b, zero); d = Unsqueeze (c, zero); y = Add (d, x)",
         {"zero": [0]}),
        ("float[2,5,8]", "b = Neg (a); c = Pad (b, more); d = Pad (x, more); y = Add (c, d)",
         {"more": [0, 0, 1, 0, 0, 1]}),
        ("float[2,5,6]", "z = Exp (x); u = Transpose <perm=[1,0,2]> (z); t = Transpose <perm=[1,0,2]> (u); "
         "b = Mul (a, t); y = Add (b, x)", {}),
    ],
)  # fmt: skip
def test_the_rows_that_are_not_zero_are_enough(size, nodes, weights):
    plain, graph = late(f"{ROW.format(size)} {{ a = Pad (v, pads)\n{lines(nodes)} }}", pads=PADS, **weights)
    assert_same(plain, graph)
    carried = [node for node in graph if node.outputs[0].name.endswith(("_part", "_of_part"))]
    assert carried
    assert all(5 not in node.outputs[0].shape for node in carried if node.outputs[0].name.endswith("_part"))


@pytest.mark.parametrize(
    "nodes",
    [
        "y = Add (a, x)",
        "b = Exp (a); y = Add (b, x)",  # 1 where a is 0
        "b = Div (x, a); c = Neg (b); y = Neg (c)",
        "b = Div (a, a); c = Neg (b); y = Add (c, x)",  # NaN
        "b = Pad (v, others); c = Mul (a, b); y = Neg (c)",  # other rows
        "b = Pad (v, others); c = Add (a, b); y = Neg (c)",
        "b = ReduceMean (a, middle); y = Mul (b, x)",
        "b = Reshape (a, whole); c = Neg (b); d = Reshape (c, back); y = Add (d, x)",  # rows are no axis any more
        "b = Reshape (a, flat); c = Neg (b); d = Reshape (c, back); y = Add (d, x)",
        "b = Pad (v, others, one); c = Neg (b); y = Add (c, x)",  # no zeros
        "b = Pad <mode=\"edge\"> (v, others); c = Neg (b); y = Add (c, x)",
    ],
)  # fmt: skip
def test_what_is_not_zero_there_keeps_its_value(nodes):
    given = {
        "others": [0, 2, 0, 0, 2, 0],
        "middle": [1],
        "whole": [2, 30],
        "flat": [10, 6],
        "back": [2, 5, 6],
        "one": np.float32(1),
    }
    weights = {name: each for name, each in given.items() if re.search(rf"\b{name}\b", nodes)}
    plain, graph = late(f"{ROW.format('float[2,5,6]')} {{ a = Pad (v, pads)\n{lines(nodes)} }}", pads=PADS, **weights)
    assert_same(plain, graph)


@pytest.mark.parametrize("pads", [[0, 1, 1, 0, 3, 0], [0, 0, 0, 0, 3, 0]])
def test_values_padded_along_several_axes_or_twice_are_let_be(pads):
    plain, graph = late(
        f"net (float[2,1,6] v, float[2,5,7] x) => (float[2,5,7] y) {{"
        f"a = Pad (v, pads)\n b = {'Neg (a)' if pads[2] else 'Pad (a, more)'}\n c = Abs (b)\n y = Add (c, x) }}",
        pads=pads,
        more=[0, 1, 1, 0, 0, 0],
    )
    assert_same(plain, graph)


def test_an_output_that_is_padded_stays_so():
    plain, graph = late(
        "net (float[2,1,6] v, float[2,5,6] x) => (float[2,5,6] a, float[2,5,6] b, float[2,1,6] s, float[2,5,6] y) {"
        "a = Pad (v, pads)\n b = Mul (a, x)\n s = ReduceSum (a, middle)\n y = Add (b, x) }",
        pads=PADS,
        middle=[1],
    )
    assert_same(plain, graph)


def attention(tokens: int = 10) -> onnx.ModelProto:
    """A block of a transformer that answers from its first token: attention, GELU, and layers normalised."""
    weights = {"qw": (8, 8), "kw": (8, 8), "vw": (8, 8), "up": (8, 12), "down": (12, 8), "head": (8, 4)}
    return model(
        f"""net (float[N,3,{tokens},6] image) => (float[N,4] logits) {{
            flat = Transpose <perm=[0,2,1,3]> (image)
            patches = Reshape (flat, size)
            tokens = MatMul (patches, embed)
            n1 = LayerNormalization <axis=-1> (tokens, scale, shift)
            q = MatMul (n1, qw)
            k = MatMul (n1, kw)
            v = MatMul (n1, vw)
            kt = Transpose <perm=[0,2,1]> (k)
            s = MatMul (q, kt)
            a = Softmax <axis=-1> (s)
            o = MatMul (a, v)
            r = Add (tokens, o)
            n2 = LayerNormalization <axis=-1> (r, scale, shift)
            u = MatMul (n2, up)
            g = Gelu (u)
            d = MatMul (g, down)
            e = Add (r, d)
            f = LayerNormalization <axis=-1> (e, scale, shift)
            first = Gather <axis=1> (f, zero)
            logits = MatMul (first, head)
        }}""",
        opset=20, size=[0, tokens, 18], embed=(18, 8), scale=np.ones(8, np.float32), shift=np.zeros(8, np.float32),
        zero=np.int64(0), **weights,
    )  # fmt: skip


def test_a_class_token_is_differentiated_alone(tmp_path, monkeypatch):
    plain = save(tmp_path / "m.onnx", attention())
    options = {"layer": "tokens", "layout": "tokens:1", "outputs": "all"}
    quick = onnxcam.attach(plain, tmp_path / "quick.cam.onnx", **options).path
    monkeypatch.setattr(simplification, "pad_late", lambda *_: None)
    slow = onnxcam.attach(plain, tmp_path / "slow.cam.onnx", **options).path
    pictures = random(2, 3, 10, 6, seed=5)
    ours, theirs = run(quick, image=pictures), run(slow, image=pictures)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert np.abs(theirs[name]).max() > 0 or name == "explained_class"
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6)
    assert (wide(slow), wide(quick)) == (7, 3)  # its values are all tokens', and what goes back through Wk and Wv


def wide(path) -> int:
    """Products of matrices behind the answer that give numbers for each token."""
    graph = ir.load(path).graph
    names = [node.outputs[0].name for node in graph]
    behind = list(graph)[names.index("logits") + 1 :]
    return sum(node.op_type == "MatMul" and list(node.outputs[0].shape)[-2:] in ([10, 12], [10, 8]) for node in behind)
