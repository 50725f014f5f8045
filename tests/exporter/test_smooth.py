"""Graphs of which differences are taken calculate in float32 and without steps, and are otherwise the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import onnxcam
from onnxcam.exporter.smooth import smooth

from .graphs import cnn, model, random, save


def smoothed(proto: onnx.ModelProto, **feed: np.ndarray) -> np.ndarray:
    read = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    smooth(read)
    session = ort.InferenceSession(ir.to_proto(read).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


X = np.array([[-3.0, -0.26, 0.1, 0.74, 9.0]], np.float32)


@pytest.mark.parametrize(
    ("zero", "wanted"),
    [
        (np.uint8(4), [[-2.25, -0.26, 0.1, 0.74, 9.0]]),  # 4½ steps of 0.5 below zero round to the lowest
        (np.int8(120), [[-3.0, -0.26, 0.1, 0.74, 3.75]]),  # 7½ steps above round to the highest
    ],
)
def test_a_quantised_value_is_clipped_and_keeps_its_fraction(zero, wanted):
    text = """g (float[1,5] x) => (float[1,5] y) {
        q = QuantizeLinear(x, s, z)
        y = DequantizeLinear(q, s, z)
    }"""
    np.testing.assert_allclose(smoothed(model(text, s=np.float32(0.5), z=zero), x=X), wanted, rtol=1e-4)


def test_the_ends_may_count_as_clipped():
    text = "g (float[1,5] x) => (float[1,5] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
    read = ir.from_proto(onnx.shape_inference.infer_shapes(model(text, s=np.float32(0.5), z=np.uint8(4))))
    smooth(read, ends_clipped={"q"})
    (got,) = ort.InferenceSession(ir.to_proto(read).SerializeToString()).run(None, {"x": X})
    np.testing.assert_allclose(got, np.maximum(X, -1.75), rtol=1e-5)


def test_without_a_zero_point_it_is_unsigned():
    text = "g (float[1,5] x) => (float[1,5] y) { q = QuantizeLinear(x, s) y = DequantizeLinear(q, s) }"
    np.testing.assert_allclose(smoothed(model(text, s=np.float32(0.5)), x=X), np.maximum(X, -0.25), rtol=1e-6)


@pytest.mark.parametrize("axis", [1, -2])
def test_scales_and_zero_points_of_an_axis(axis):
    text = f"""g (float[2,3,2] x) => (float[2,3,2] y) {{
        q = QuantizeLinear<axis={axis}>(x, s, z)
        y = DequantizeLinear<axis={axis}>(q, s, z)
    }}"""
    x = np.linspace(-3, 3, 12, dtype=np.float32).reshape(2, 3, 2)
    scale, zero = np.array([0.01, 0.1, 0.02], np.float32), np.array([0, -100, 28], np.int8)
    low, high = scale * (-128.5 - zero), scale * (127.5 - zero)
    got = smoothed(model(text, s=scale, z=zero), x=x)
    np.testing.assert_allclose(got, np.clip(x, low[:, None], high[:, None]), rtol=1e-5)
    assert 0 < (got != x).sum() < x.size


def test_whole_numbers_may_be_moved_in_between():
    text = """g (float[1,2,3,2] x) => (float[1,6] y) {
        q = QuantizeLinear(x, s, z)
        t = Transpose<perm=[0,2,3,1]>(q)
        m = MaxPool<kernel_shape=[2,2]>(q)
        r = Reshape(t, shape)
        f = Reshape(m, shape)
        a = Concat<axis=1>(r, f)
        part = Slice(r, from, to, along)
        y = DequantizeLinear(part, s, z)
    }"""
    proto = model(text, s=np.float32(0.3), z=np.uint8(9), shape=[1, -1], to=[8], along=[1], **{"from": [2]})
    x = random(1, 2, 3, 2)
    wanted = np.clip(x, -2.85, 73.95).transpose(0, 2, 3, 1).reshape(1, 12)[:, 2:8]
    np.testing.assert_allclose(smoothed(proto, x=x), wanted, rtol=1e-5)


def test_the_steps_of_weights_stay():
    text = "g (float[1,5] x) => (float[1,5] y) { w = DequantizeLinear(k, s, z) y = Mul(x, w) }"
    k = np.array([1, 2, 3, 4, 5], np.int8)
    got = smoothed(model(text, k=k, s=np.float32(0.5), z=np.int8(1)), x=X)
    np.testing.assert_allclose(got, X * (k - 1) * 0.5, rtol=1e-6)


def test_half_precision_is_widened():
    text = """g (float16[1,5] x) => (float16[1,5] y) {
        wide = Cast<to=1>(x)
        one = Constant<value = float {1.0}>()
        more = Add(wide, one)
        half = Cast<to=10>(more)
        y = Mul(half, w)
    }"""
    w = np.array([0.1, 1, 2, 3, 4], np.float16)
    got = smoothed(model(text, w=w), x=X + np.float32(1e-5))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, (X + np.float32(1e-5) + 1) * w.astype(np.float32), rtol=1e-6)


def test_a_half_precision_artifact_is_verified_in_float32(tmp_path):
    proto = cnn()
    for weight in proto.graph.initializer:
        weight.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight).astype(np.float16), weight.name)
        )
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    report = onnxcam.verify(onnxcam.attach(save(tmp_path / "m.onnx", proto), layer=["first", "last"]).path)
    assert report.passed
    assert {row.layer for row in report.comparisons} == {"first", "last"}
    assert report.largest_error < 5e-3
