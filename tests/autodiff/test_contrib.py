from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch.nn import functional

from onnxcam.autodiff import gradients
from onnxcam.errors import UnsupportedOperatorError
from onnxcam.exporter.shapes import infer_shapes

from .gradient_check import case, each, equals_torch, run_onnxruntime


def _norm(x: torch.Tensor, epsilon: float = 1e-12) -> torch.Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + epsilon)


def _attend(q, k, v, heads, mask=None, scale=None):
    """Attention of [N, S, hidden] by PyTorch."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) if x.ndim == 3 else x for x in (q, k, v))
    y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return y.transpose(1, 2).flatten(2)


def _packed(x, w, b, heads, sizes=None, **kwargs):
    return _attend(*(x @ w + b).split(sizes or w.shape[1] // 3, -1), heads, **kwargs)


def _seen(hidden) -> torch.Tensor:
    return torch.where(torch.as_tensor(hidden), -10000.0, 0.0)


MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], np.int32)
SQUARE = np.random.default_rng(3).integers(0, 2, (2, 5, 5)).astype(np.int32) | np.eye(5, dtype=np.int32)
CAUSAL = torch.ones(5, 5, dtype=torch.bool).triu(1)
ATTENTION = {"x": (2, 5, 7), "w": (7, 18), "b": (18,)}
HEADS = {"q": (2, 4, 6), "k": (2, 5, 6), "v": (2, 5, 9)}

CASES = [
    # Activations
    case("com.microsoft.Gelu(x)", x=(3, 5), torch=functional.gelu),
    case("com.microsoft.BiasGelu(x, b)", x=(2, 3, 5), b=(5,), torch=lambda x, b: functional.gelu(x + b)),
    case("com.microsoft.FastGelu(x)", x=(3, 5), torch=lambda x: functional.gelu(x, approximate="tanh")),
    case(
        "com.microsoft.FastGelu(x, b)",
        x=(2, 3, 5),
        b=(5,),
        torch=lambda x, b: functional.gelu(x + b, approximate="tanh"),
    ),
    case("com.microsoft.QuickGelu(x)", x=(3, 5), torch=lambda x: x * torch.sigmoid(1.702 * x)),
    case("com.microsoft.QuickGelu<alpha=0.5>(x)", x=(3, 5), torch=lambda x: x * torch.sigmoid(0.5 * x)),
    # Products
    *(
        case(
            f"com.microsoft.FusedConv<activation={name!r}{params}, pads=[1, 0, 1, 1], strides=[2, 1]>(x, w, b)".replace(
                "'", '"'
            ),
            x=(2, 3, 7, 5),
            w=(4, 3, 3, 2),
            b=(4,),
            static=["w"],
            torch=lambda x, w, b, do=do: do(functional.conv2d(functional.pad(x, (0, 1, 1, 1)), w, b, (2, 1))),
        )
        for name, params, do in [
            ("Relu", "", torch.relu),
            ("Sigmoid", "", torch.sigmoid),
            ("Tanh", "", torch.tanh),
            ("LeakyRelu", ", activation_params=[0.125]", lambda y: functional.leaky_relu(y, 0.125)),
            ("Clip", ", activation_params=[-1.0, 2.0]", lambda y: functional.hardtanh(y, -1, 2)),
            ("HardSigmoid", ", activation_params=[0.25, 0.5]", lambda y: (0.25 * y + 0.5).clamp(0, 1)),
        ]
    ),
    case(
        'com.microsoft.FusedConv<activation="Relu", group=2>(x, w, b, z)',
        x=(2, 4, 7, 5),
        w=(6, 2, 3, 2),
        b=(6,),
        z=(2, 6, 5, 4),
        static=["w"],
        torch=lambda x, w, b, z: torch.relu(functional.conv2d(x, w, b, groups=2) + z),
    ),
    *(
        case(
            f"com.microsoft.FusedGemm<{params}, transB=1, alpha=0.5>(a, b, c)",
            a=(3, 7),
            b=(5, 7),
            c=(5,),
            torch=lambda a, b, c, do=do: do(0.5 * a @ b.T + c),
        )
        for params, do in [
            ('activation="Relu"', torch.relu),
            ('activation="LeakyRelu", activation_alpha=0.125', lambda y: functional.leaky_relu(y, 0.125)),
            (
                'activation="HardSigmoid", activation_alpha=0.25, activation_beta=0.5',
                lambda y: (0.25 * y + 0.5).clamp(0, 1),
            ),
        ]
    ),
    case("com.microsoft.FusedMatMul(a, b)", a=(2, 3, 7), b=(7, 5), torch=torch.matmul),
    case(
        "com.microsoft.FusedMatMul<transA=1, transB=1, alpha=0.25>(a, b)",
        a=(2, 4, 7, 3),
        b=(4, 5, 7),
        torch=lambda a, b: 0.25 * a.mT @ b.mT,
    ),
    case(
        "com.microsoft.FusedMatMul<transBatchA=1>(a, b)",
        a=(3, 2, 4, 7),
        b=(2, 4, 7, 5),
        torch=lambda a, b: a.permute(1, 2, 0, 3) @ b,
    ),
    case(
        "com.microsoft.FusedMatMul<transBatchA=1, transA=1, transBatchB=1, transB=1>(a, b)",
        a=(7, 2, 4, 3),
        b=(5, 2, 4, 7),
        torch=lambda a, b: a.permute(1, 2, 3, 0) @ b.permute(1, 2, 3, 0),
    ),
    case("com.microsoft.TransposeMatMul<transB=1>(a, b)", a=(2, 3, 7), b=(2, 5, 7), torch=lambda a, b: a @ b.mT),
    # Norms
    case(
        "com.microsoft.SkipLayerNormalization(x, z, w, b, c)",
        x=(2, 3, 5),
        z=(2, 3, 5),
        w=(5,),
        b=(5,),
        c=(5,),
        torch=lambda x, z, w, b, c: functional.layer_norm(x + z + c, (5,), w, b, 1e-12),
    ),
    *(
        case(
            "com.microsoft.SkipLayerNormalization<epsilon=0.1>(x, z, w)",
            x=(2, 3, 5),
            z=z,
            w=(5,),
            torch=lambda x, z, w: functional.layer_norm(x + z, (5,), w, eps=0.1),
        )
        for z in [(1, 3, 5), (3, 5)]
    ),
    case(
        "a, m, s, t = com.microsoft.SkipLayerNormalization(x, z, w, b); y = Mul(a, t)",
        x=(2, 3, 5),
        z=(2, 3, 5),
        w=(5,),
        b=(5,),
        torch=lambda x, z, w, b: functional.layer_norm(x + z, (5,), w, b, 1e-12) * (x + z),
    ),
    case(  # an input that depends on another one
        "z = Tanh(x); y = com.microsoft.SkipLayerNormalization(x, z, w)",
        x=(2, 3, 5),
        w=(5,),
        torch=lambda x, w: functional.layer_norm(x + torch.tanh(x), (5,), w, eps=1e-12),
    ),
    case(
        "com.microsoft.SkipSimplifiedLayerNormalization(x, z, w, c)",
        x=(2, 3, 5),
        z=(2, 3, 5),
        w=(5,),
        c=(5,),
        torch=lambda x, z, w, c: _norm(x + z + c) * w,
    ),
    case(
        "a, m, s, t = com.microsoft.SkipSimplifiedLayerNormalization<epsilon=0.1>(x, z, w); y = Mul(a, t)",
        x=(2, 3, 5),
        z=(2, 3, 5),
        w=(5,),
        torch=lambda x, z, w: _norm(x + z, 0.1) * w * (x + z),
    ),
    # Attention
    case(
        "com.microsoft.Attention<num_heads=3>(x, w, b)", **ATTENTION, static=["w", "b"], torch=lambda *a: _packed(*a, 3)
    ),
    case(
        "com.microsoft.Attention<num_heads=3, scale=0.5, qkv_hidden_sizes=[3, 3, 12]>(x, w, b)",
        **ATTENTION,
        torch=lambda *a: _packed(*a, 3, [3, 3, 12], scale=0.5),
    ),
    *(
        case(
            "com.microsoft.Attention<num_heads=3>(x, w, b, m)",
            **ATTENTION,
            m=mask,
            static=["w", "b", "x", "m"],
            torch=lambda x, w, b, m, hidden=hidden: _packed(x, w, b, 3, mask=_seen(hidden)),
        )
        for mask, hidden in [
            (MASK, MASK[:, None, None] == 0),
            (SQUARE, SQUARE[:, None] == 0),
            (MASK.sum(1).astype(np.int32), MASK[:, None, None] == 0),
        ]
    ),
    case(
        "com.microsoft.Attention<num_heads=3>(x, w, b, , , a)",
        **ATTENTION,
        a=(2, 3, 5, 5),
        static=["w", "b"],
        torch=lambda x, w, b, a: _packed(x, w, b, 3, mask=a),
    ),
    case(
        "com.microsoft.Attention<num_heads=3, unidirectional=1>(x, w, b)",
        **ATTENTION,
        static=["w", "b"],
        torch=lambda *a: _packed(*a, 3, mask=_seen(CAUSAL)),
    ),
    case(
        "com.microsoft.MultiHeadAttention<num_heads=3>(q, k, v)",
        **HEADS,
        static=HEADS,
        torch=lambda q, k, v: _attend(q, k, v, 3),
    ),
    case(
        "com.microsoft.MultiHeadAttention<num_heads=3, scale=0.25>(q, k, v, b, m, a)",
        **HEADS,
        b=(21,),
        m=MASK,
        a=(1, 3, 4, 5),
        static=[*HEADS, "m"],
        torch=lambda q, k, v, b, m, a: _attend(
            q + b[:6], k + b[6:12], v + b[12:], 3, a + _seen(m[:, None, None] == 0), 0.25
        ),
    ),
    case(
        "com.microsoft.MultiHeadAttention<num_heads=3>(q, k, v)",
        q=(2, 4, 6),
        k=(2, 3, 5, 2),
        v=(2, 3, 5, 2),
        static=["q", "k", "v"],
        torch=lambda q, k, v: _attend(q, k, v, 3),
    ),
]


@each(CASES)
def test_gradient_equals_torch(row, setting):
    equals_torch(row, setting)


def _model(text: str, *inputs: str, opset: int = 18) -> tuple[ir.Model, dict[str, ir.Value]]:
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1, "com.microsoft.nchwc" : 1]> '
        f"net ({', '.join(inputs)}) => (float[] y) {{ {text} }}"
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    model = ir.from_proto(proto)
    return model, {value.name: value for value in [*model.graph.inputs, *model.graph.outputs]}


@pytest.mark.parametrize(("axis", "attributes", "epsilon"), [(-1, "", 1e-5), (1, "<axis=1, epsilon=0.1>", 0.1)])
def test_an_operator_that_onnxruntime_has_in_the_standard_domain(axis, attributes, epsilon):
    text = f"n = SimplifiedLayerNormalization{attributes}(x, w) y = Tanh(n)"
    model, values = _model(text, "float[2,3,5] x", "float[3,5] w" if axis == 1 else "float[5] w")
    infer_shapes(model)
    found = gradients(model, of=values["y"], wrt=[values["x"], values["w"]])
    model.graph.outputs.extend(found)
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal(list(values[name].shape)).astype(np.float32) for name in "xw"}
    feeds["x"] *= 0.01 if axis == -1 else 1.0  # so that the default counts
    run = run_onnxruntime(ir.to_proto(model))(feeds)
    x, w = (torch.tensor(value, requires_grad=True) for value in feeds.values())
    axes = tuple(range(axis % 3, 3))
    y = torch.tanh(x / torch.sqrt((x * x).mean(axes, keepdim=True) + epsilon) * w)
    for value, expected in zip(found, torch.autograd.grad(y.sum(), [x, w]), strict=True):
        np.testing.assert_allclose(run[value.name], expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


REFUSED = [
    (
        "com.microsoft.nchwc.ReorderOutput<channels=3>(x)",
        "use the model as it was before, or optimise it with ORT_ENABLE_EXTENDED",
    ),
    ("com.microsoft.NhwcMaxPool<kernel_shape=[2, 2]>(x)", "layout optimisation"),
    ("com.microsoft.Snpe(x)", "com.microsoft.Snpe 'y' is not a standard operator"),
    ('com.microsoft.FusedConv<activation="Gulp">(x, w)', "the activation Gulp is not known here"),
]


@pytest.mark.parametrize(("text", "why"), REFUSED)
def test_what_cannot_be_differentiated_says_why(text, why):
    model, values = _model(f"y = {text}", "float[1,3,4,4] x", "float[3,3,1,1] w")
    values["y"].shape = ir.Shape([1, 3, 4, 4])
    with pytest.raises(UnsupportedOperatorError, match=why):
        gradients(model, of=values["y"], wrt=[values["x"]])


def test_past_states_are_refused():
    model, values = _model(
        "y = com.microsoft.Attention<num_heads=2>(x, w, , , p)", "float[1,3,4] x", "float[4,12] w", "float[2,1,2,1,2] p"
    )
    values["y"].shape = ir.Shape([1, 3, 4])
    with pytest.raises(UnsupportedOperatorError, match="past states are not differentiated: export the model without"):
        gradients(model, of=values["y"], wrt=[values["x"]])


NETS = {
    "a net of convolutions": (
        """a = Conv<pads=[1, 1, 1, 1]>(x, w) b = Relu(a) c = Conv(b, v) d = LeakyRelu<alpha=0.25>(c)
        e = GlobalAveragePool(d) f = Flatten(e) g = Gemm(f, u) y = Relu(g)""",
        {"x": (2, 3, 7, 5), "w": (4, 3, 3, 3), "v": (6, 4, 1, 1), "u": (6, 5)},
        {"FusedConv": 2, "FusedGemm": 1},
    ),
    "a transformer": (
        """n = LayerNormalization<epsilon=1.0e-6>(x, s, t) q = MatMul(n, w) k = MatMul(n, v)
        m = Transpose<perm=[0, 2, 1]>(k) a = MatMul(q, m) b = Mul(a, half) c = Softmax(b) d = MatMul(c, n) e = Add(x, d)
        f = LayerNormalization<epsilon=1.0e-6>(e, s, t) g = MatMul(f, w) h = Add(g, t) i = Div(h, root) j = Erf(i)
        l = Add(j, one) o = Mul(h, l) p = Mul(o, half) r = MatMul(p, v) z = Add(e, r)
        y = LayerNormalization<epsilon=1.0e-6>(z, s, t)""",
        {"x": (2, 5, 6), "w": (6, 6), "v": (6, 6), "s": (6,), "t": (6,)},
        {"FusedMatMul": 1, "SkipLayerNormalization": 1, "BiasGelu": 1},
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_what_onnxruntime_optimised_has_the_gradient_of_what_it_read(name, tmp_path):
    text, shapes, fused = NETS[name]
    rng = np.random.default_rng(0)
    feeds = {key: rng.standard_normal(shape).astype(np.float32) * 0.7 for key, shape in shapes.items()}
    numbers = {"half": 0.5, "one": 1.0, "root": 2**0.5}
    constants = {**feeds, **{key: np.float32(value) for key, value in numbers.items()}}
    x = constants.pop("x")
    plain, _ = _model(text, f"float[N,{','.join(map(str, x.shape[1:]))}] x")
    proto = ir.to_proto(plain)
    read = {key for node in proto.graph.node for key in node.input}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in constants.items() if k in read)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx")
    found = Counter(node.op_type for node in optimised.graph.node if node.domain)
    assert found == fused
    gradient = []
    for model in (ir.from_proto(proto), ir.from_proto(optimised)):
        infer_shapes(model)
        (dx,) = gradients(model, of=model.graph.outputs[0], wrt=[model.graph.inputs[0]])
        dx.name = "dx"
        model.graph.outputs.append(dx)
        gradient.append(run_onnxruntime(ir.to_proto(model))({"x": x})["dx"])
    np.testing.assert_allclose(gradient[1], gradient[0], rtol=0, atol=1e-5 * np.abs(gradient[0]).max())
