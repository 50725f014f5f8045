"""Checks of derivative rules: one table row an operator case.

A row is a node in ONNX's text form, what its inputs hold, and, where PyTorch has the operator, the same in PyTorch::

    CASES = [
        case("Gemm<transB=1>(a, b, c)", a=(3, 5), b=(7, 5), c=(7,), torch=lambda a, b, c: a @ b.T + c),
        case("Sqrt(x)", x=positive(3, 5), torch=torch.sqrt),
        case("ReduceSum(x, axes)", x=(3, 5), axes=constant([-1]), torch=lambda x: x.sum(-1, keepdim=True)),
        case("p, q = Split<axis=1>(x, sizes); y = Mul(p, q)", x=(3, 4), sizes=constant([2, 2])),
    ]

    @each(CASES)
    def test_gradient_equals_central_difference(row, setting):
        equals_central_difference(row, setting)

    @each(CASES)
    def test_gradient_equals_torch(row, setting):
        equals_torch(row, setting)

`each` runs a row with static shapes, with every axis symbolic, and at the newest opset. A second table of `edge`
rows states values at zeros, ties, saturation and infinities.
"""

from __future__ import annotations

__all__ = [
    "NEWEST",
    "Case",
    "Edge",
    "Setting",
    "apart",
    "build",
    "case",
    "constant",
    "differentiate",
    "distinct",
    "each",
    "edge",
    "equals_central_difference",
    "equals_torch",
    "has_edge_values",
    "is_adjoint",
    "is_near_in_half_precision",
    "normal",
    "positive",
    "run_onnxruntime",
    "run_reference",
    "uniform",
]

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented, get_all_operator_schema

from onnxcam.autodiff import gradients
from onnxcam.exporter.shapes import infer_shapes

from .reference_operators import OPERATORS

NEWEST = min(onnx.defs.onnx_opset_version(), 28)
"""The newest opset the rules are checked at."""

COMPLETE = (1, 32)
"""The ONNX Runtime that can run every row; for Python 3.10 there is none after 1.23."""

CONTRIB = "com.microsoft"

_TYPES = {
    "float64": "double",
    "float32": "float",
    "float16": "float16",
    "int32": "int32",
    "int64": "int64",
    "bool": "bool",
}


@dataclass(frozen=True)
class Random:
    """A differentiated input: its shape, and how its values are drawn in float64."""

    shape: tuple[int, ...]
    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class Constant:
    """An input whose value is in the file: an initializer, never differentiated."""

    value: np.ndarray


def normal(*shape: int) -> Random:
    """Standard normal values."""
    return Random(shape, lambda rng, shape: rng.standard_normal(shape))


def uniform(low: float, high: float, *shape: int) -> Random:
    """Values between ``low`` and ``high``."""
    return Random(shape, lambda rng, shape: rng.uniform(low, high, shape))


def positive(*shape: int) -> Random:
    """Values in 0.2–2."""
    return uniform(0.2, 2.0, *shape)


def apart(*shape: int, kinks: Sequence[float] = (0.0,), scale: float = 2.0) -> Random:
    """Normal values times ``scale``, none within 0.05 of a kink."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        x = rng.standard_normal(shape) * scale
        for kink in kinks:
            near = np.abs(x - kink) < 0.05
            x = np.where(near, kink + np.where(x < kink, -0.1, 0.1), x)
        return x

    return Random(shape, draw)


def distinct(*shape: int) -> Random:
    """A shuffled ramp: no two values nearer than 0.05, so no ties within a window."""
    return Random(shape, lambda rng, shape: rng.permutation(math.prod(shape)).reshape(shape) * 0.05 - 1.0)


def constant(value: Any) -> Constant:
    """A number, list or array as an initializer; Python numbers become int64 or float."""
    return Constant(np.asarray(value))


@dataclass(frozen=True)
class Case:
    """One row: see the module's docstring. Made by `case`."""

    text: str
    inputs: Mapping[str, Random | Constant | np.ndarray]
    torch: Callable[..., torch.Tensor] | None
    opsets: tuple[int, int]
    wrt: tuple[str, ...]
    static: frozenset[str]
    float64: str
    tolerance: float

    def __str__(self) -> str:
        shapes = [
            f"{name}={'x'.join(map(str, x.shape)) or 'scalar'}"
            for name, x in self.inputs.items()
            if isinstance(x, Random)
        ]
        known = [f"{name}={x.value.tolist()}" for name, x in self.inputs.items() if isinstance(x, Constant)]
        return " ".join([*self.text.split(), *shapes, *(k for k in known if len(k) < 30)])


def case(
    text: str,
    *,
    torch: Callable[..., torch.Tensor] | None = None,
    opsets: tuple[int, int] = (18, NEWEST),
    wrt: Sequence[str] | None = None,
    static: Sequence[str] = (),
    float64: str = "reference",
    tolerance: float = 1e-5,
    **inputs: tuple[int, ...] | Random | Constant | np.ndarray,
) -> Case:
    """A row.

    text: one node in ONNX's text form without its output, or several with their outputs, ``;`` between, the last ``y``.
        ``$T`` stands for the type of the floating inputs.
    inputs: by name. A shape (standard normal values) or `normal`, `positive`, `uniform`, `apart`, `distinct` is
        differentiated. An array is fed, `constant` is in the file; neither is differentiated.
    torch: the same of the inputs in their order, without constants.
    opsets: the usual and the newest opset for this row.
    wrt: the inputs to differentiate, where not all.
    static: inputs whose shape stays static in the symbolic setting (weights).
    float64: ``"reference"``, or ``"onnxruntime"`` where onnx's reference evaluator is wrong: say why beside it.
    tolerance: between ONNX Runtime and PyTorch in float32, relative to the largest gradient.
    """
    full = {name: normal(*x) if isinstance(x, tuple) else x for name, x in inputs.items()}
    random = tuple(name for name, x in full.items() if isinstance(x, Random))
    if unread := [name for name in full if not re.search(rf"\b{name}\b", text.partition("(")[2])]:
        raise ValueError(f"{text} does not read {unread}")
    return Case(text, full, torch, opsets, random if wrt is None else tuple(wrt), frozenset(static), float64, tolerance)


@dataclass(frozen=True)
class Setting:
    """How a row is built: with symbolic axes or static ones; at its usual opset or at its newest."""

    dynamic: bool = False
    newest: bool = False

    def __str__(self) -> str:
        return "newest" if self.newest else "dynamic" if self.dynamic else "static"


def each(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """Parametrise a test over ``row`` and ``setting``."""
    settings = [Setting(), Setting(dynamic=True), Setting(newest=True)]
    return pytest.mark.parametrize(
        ("row", "setting"),
        [
            pytest.param(row, setting, id=f"{row}-{setting}")
            for row in cases
            for setting in settings
            if not setting.newest or row.opsets[0] != row.opsets[1]
        ],
    )


def draw(row: Case) -> dict[str, np.ndarray]:
    """What the row feeds, in float64 where floating; seeded."""
    rng = np.random.default_rng(20240501)
    feeds = {}
    for name, x in row.inputs.items():
        if isinstance(x, Random):
            feeds[name] = np.asarray(x.draw(rng, x.shape), np.float64)
        elif not isinstance(x, Constant):
            feeds[name] = np.asarray(x)
    return feeds


def build(row: Case, setting: Setting = Setting(), dtype: str = "float64") -> ir.Model:
    """The forward model of a row with all shapes inferred; floating inputs are of ``dtype``."""
    feeds = draw(row)
    constants = {name: _as(x.value, dtype) for name, x in row.inputs.items() if isinstance(x, Constant)}
    declared = []
    for name, value in feeds.items():
        symbolic = setting.dynamic and name not in row.static
        dims = ",".join(f"{name}{axis}" if symbolic else str(size) for axis, size in enumerate(value.shape))
        declared.append(f"{_TYPES[_as(value, dtype).dtype.name]}{f'[{dims}]' if value.ndim else ''} {name}")
    body = row.text if re.match(r"[\w\s,]+=", row.text) else f"y = {row.text}"
    body = body.replace(";", " ").replace("$T", _TYPES[dtype])
    opset = row.opsets[1 if setting.newest else 0]
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {opset}, "{CONTRIB}" : 1]> '
        f"row ({', '.join(declared)}) => ({_TYPES[dtype]}[] y) {{ {body} }}"
    )
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(x, name) for name, x in constants.items())
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True))
    if CONTRIB in row.text:
        _require_complete_onnxruntime()
        infer_shapes(model)
    (y,) = model.graph.outputs
    if y.shape is None:  # where the rank depends on values
        y.shape = ir.Shape([None] * run_reference(proto)({n: _as(x, dtype) for n, x in feeds.items()})["y"].ndim)
    return model


def differentiate(model: ir.Model, wrt: Sequence[str]) -> onnx.ModelProto:
    """``model`` with the seed ``dy`` as further input and the gradients ``d<name>`` as further outputs, checked."""
    graph = model.graph
    forward = len(graph)
    y = graph.outputs[0]
    dy = ir.Value(name="dy", type=y.type, shape=y.shape)
    graph.inputs.append(dy)
    values = {value.name: value for value in graph.inputs}
    for name, dx in zip(wrt, gradients(model, of=y, wrt=[values[name] for name in wrt], seed=dy), strict=True):
        dx.name = f"d{name}"
        graph.outputs.append(dx)
    assert {node.domain for node in list(graph)[forward:]} <= {""}, "operators outside the standard"
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def equals_central_difference(row: Case, setting: Setting) -> None:
    """⟨v, Jᵀu⟩ = ⟨u, (y(x + hv) - y(x - hv)) / 2h⟩ in float64, for each differentiated input by itself."""
    feeds = draw(row)
    run = run_reference if row.float64 == "reference" else run_onnxruntime
    forward = run(ir.to_proto(build(row, setting)))
    y = forward(feeds)["y"]
    rng = np.random.default_rng(20240502)
    u = rng.standard_normal(y.shape)
    found = run(differentiate(build(row, setting), row.wrt))({**feeds, "dy": u})
    np.testing.assert_array_equal(found["y"], y, err_msg="the forward pass changed")
    for name in row.wrt:
        x, dx = feeds[name], found[f"d{name}"]
        assert dx.shape == x.shape, f"d{name}: {dx.shape}, {name}: {x.shape}"
        assert dx.dtype == x.dtype
        v = rng.standard_normal(x.shape)
        h = 1e-6
        jv = (forward({**feeds, name: x + h * v})["y"] - forward({**feeds, name: x - h * v})["y"]) / (2 * h)
        scale = np.abs(u * jv).sum() + np.abs(v * dx).sum()
        np.testing.assert_allclose(
            np.vdot(v, dx), np.vdot(u, jv), rtol=0, atol=1e-7 * scale + 1e-8, err_msg=f"⟨v, Jᵀu⟩ for {name}"
        )


def equals_torch(row: Case, setting: Setting) -> None:
    """The gradients of ONNX Runtime are those of PyTorch's autograd, both in float32."""
    if row.torch is None:
        pytest.skip("PyTorch has no such operator")
    feeds = {name: _as(x, "float32") for name, x in draw(row).items()}
    tensors = {name: torch.tensor(x, requires_grad=name in row.wrt) for name, x in feeds.items()}
    y = row.torch(*tensors.values())
    u = np.random.default_rng(20240502).standard_normal(tuple(y.shape)).astype(np.float32)
    expected = torch.autograd.grad(y, [tensors[name] for name in row.wrt], torch.tensor(u))
    found = run_onnxruntime(differentiate(build(row, setting, "float32"), row.wrt))({**feeds, "dy": u})
    _assert_near(found["y"], y.detach().numpy(), row.tolerance, "y, the forward pass")
    for name, dx in zip(row.wrt, expected, strict=True):
        _assert_near(found[f"d{name}"], dx.numpy(), row.tolerance, f"d{name}")


def is_near_in_half_precision(row: Case) -> None:
    """The gradients of ONNX Runtime in float16 are those in float32 to 1/50 of the largest, and finite where those are.

    Rows of operators that the standard or ONNX Runtime has no float16 of are skipped.
    """
    model = build(row, dtype="float32")
    for node in model.graph:
        if without := _without_half(node, model.graph.opset_imports):
            pytest.skip(f"{node.op_type} takes no float16 as {without}")
    half = {name: _as(x, "float16") for name, x in draw(row).items()}
    single = {name: _as(x, "float32") for name, x in half.items()}
    try:
        y = run_onnxruntime(ir.to_proto(build(row, dtype="float16")))(half)["y"]
    except NotImplemented as error:
        pytest.skip(f"ONNX Runtime has no such kernel: {error}")
    in_single = run_onnxruntime(differentiate(model, row.wrt))
    u = np.random.default_rng(20240502).standard_normal(y.shape)
    largest = max(np.abs(in_single({**single, "dy": _as(u, "float32")})[f"d{name}"]).max() for name in row.wrt)
    u = _as(u / max(largest / 1000, 1), "float16")  # float16 ends at 65504
    expected = in_single({**single, "dy": _as(u, "float32")})
    found = run_onnxruntime(differentiate(build(row, dtype="float16"), row.wrt))({**half, "dy": u})
    for name in row.wrt:
        dx = found[f"d{name}"]
        assert dx.dtype == np.float16
        _assert_near(np.float32(dx), expected[f"d{name}"], 2e-2, f"d{name} in float16")


def _without_half(node: ir.Node, opset_imports: Mapping[str, int]) -> str | None:
    """The first input of ``node`` that may be of float32 but not of float16."""
    if onnx.defs.has(node.op_type, node.domain):
        formals = onnx.defs.get_schema(node.op_type, opset_imports[node.domain], node.domain).inputs
    else:
        formals = next(s for s in get_all_operator_schema() if (s.domain, s.name) == (node.domain, node.op_type)).inputs
    given = [
        formal
        for formal, x in zip(formals, node.inputs, strict=False)
        if x is not None and x.dtype == ir.DataType.FLOAT
    ]
    return next((formal.name for formal in given if "tensor(float16)" not in formal.types), None)


def is_adjoint(row: Case, setting: Setting) -> None:
    """⟨dy, y(x) - y(0)⟩ = ⟨dx, x⟩ in ONNX Runtime's float32, for a row that is linear in x but for an offset."""
    feeds = {name: _as(x, "float32") for name, x in draw(row).items()}
    forward = run_onnxruntime(ir.to_proto(build(row, setting, "float32")))
    y = forward(feeds)["y"] - forward({**feeds, "x": np.zeros_like(feeds["x"])})["y"]
    run = run_onnxruntime(differentiate(build(row, setting, "float32"), ["x"]))
    for seed in range(3):
        dy = np.random.default_rng(seed).standard_normal(y.shape).astype(np.float32)
        dx = run({**feeds, "dy": dy})["dx"]
        assert dx.shape == feeds["x"].shape
        scale = np.abs(dy * y).sum() + np.abs(dx * feeds["x"]).sum()
        np.testing.assert_allclose(np.vdot(dy, y), np.vdot(dx, feeds["x"]), rtol=0, atol=1e-6 * scale)


@dataclass(frozen=True)
class Edge:
    """One row of special values: the gradient of ``text`` at ``inputs`` under the seed ``dy``. Made by `edge`."""

    text: str
    inputs: Mapping[str, np.ndarray | Constant]
    dy: Any
    expected: Mapping[str, Any]
    torch: Callable[..., torch.Tensor] | None
    opset: int
    why: str

    def __str__(self) -> str:
        return f"{self.text} {self.why}"


def edge(
    text: str,
    why: str,
    *,
    dy: Any = 1.0,
    torch: Callable[..., torch.Tensor] | None = None,
    opset: int = 18,
    **values: Any,
) -> Edge:
    """A row of special values.

    values: ``x=[…]`` the input, `constant` the initializer, ``dx=[…]`` the expected gradient of x.
    dy: the seed, broadcast to the output.
    torch: the same in PyTorch, whose gradients must be those expected.
    """
    inputs = {
        name: value if isinstance(value, Constant) else np.asarray(value)
        for name, value in values.items()
        if f"d{name}" in values or not (name.startswith("d") and name[1:] in values)
    }
    expected = {name[1:]: value for name, value in values.items() if name not in inputs}
    return Edge(text, inputs, dy, expected, torch, opset, why)


def has_edge_values(row: Edge) -> None:
    """ONNX Runtime in float32 gives the values the row states, and so does PyTorch where the row names it."""
    full = Case(row.text, row.inputs, None, (row.opset, row.opset), tuple(row.expected), frozenset(), "", 0.0)
    feeds = {name: _as(x, "float32") for name, x in draw(full).items()}
    forward = run_onnxruntime(ir.to_proto(build(full, dtype="float32")))(feeds)["y"]
    u = np.broadcast_to(np.float32(row.dy), forward.shape)
    found = run_onnxruntime(differentiate(build(full, dtype="float32"), full.wrt))({**feeds, "dy": u})
    for name, expected in row.expected.items():
        np.testing.assert_allclose(found[f"d{name}"], np.float32(expected), rtol=1e-6, err_msg=f"d{name}")
    if row.torch is not None:
        tensors = {name: torch.tensor(x, requires_grad=name in row.expected) for name, x in feeds.items()}
        y = row.torch(*tensors.values())
        dxs = torch.autograd.grad(y, [tensors[name] for name in row.expected], torch.tensor(u.copy()))
        for (name, expected), dx in zip(row.expected.items(), dxs, strict=True):
            np.testing.assert_allclose(dx, np.float32(expected), rtol=1e-6, err_msg=f"d{name} of torch")


def run_reference(model: onnx.ModelProto) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """``model`` by onnx's reference evaluator."""
    session = ReferenceEvaluator(model, new_ops=[Erf, Gelu, *OPERATORS])

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with np.errstate(all="ignore"):
            return dict(zip(session.output_names, session.run(None, dict(feeds)), strict=True))

    return run


def run_onnxruntime(model: onnx.ModelProto) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """``model`` by ONNX Runtime on the CPU, one thread."""
    _require_complete_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _require_complete_onnxruntime() -> None:
    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < COMPLETE:
        pytest.skip(f"ONNX Runtime {onnxruntime.__version__} lacks operators, opsets and kernels of the table")


class Erf(OpRun):
    """Erf in the precision of its input: onnx's own evaluates it in float32."""

    op_domain = ""
    op_schema = onnx.defs.get_schema("Erf")

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (np.vectorize(math.erf, otypes=[x.dtype])(x),)


class Gelu(OpRun):
    """Gelu by that Erf: onnx's own is a function, whose nodes do not see it."""

    op_domain = ""
    op_schema = onnx.defs.get_schema("Gelu")

    def _run(self, x: np.ndarray, approximate: str) -> tuple[np.ndarray]:
        if approximate == "tanh":
            gate = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
        else:
            gate = np.vectorize(math.erf, otypes=[x.dtype])(x / math.sqrt(2))
        return (x * (1 + gate) / 2,)


def _as(x: np.ndarray, dtype: str) -> np.ndarray:
    """``x`` in ``dtype`` if it is floating."""
    return np.asarray(x, dtype) if np.issubdtype(x.dtype, np.floating) else x


def _assert_near(found: np.ndarray, expected: np.ndarray, tolerance: float, what: str) -> None:
    atol = tolerance * max(float(np.abs(expected).max(initial=0.0)), 1e-3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol, err_msg=what)
