"""Checks against the node cases by which the ONNX standard tests runtimes.

A case is a small model with inputs. Its floating outputs y, times random u, are summed to one number s = ⟨u, y⟩ in the
graph itself, which is differentiated; ⟨v, ds/dx⟩ must be the central difference of s along v for each floating input.
Axes, shapes and indices are fed, as they seldom are elsewhere, and made constants where a rule has to know them.
"""

from __future__ import annotations

__all__ = ["FAILED", "PASSED", "Result", "check", "operator", "standard_cases"]

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.backend.test.case.node
import onnx_ir as ir
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from onnxcam.autodiff import gradients
from onnxcam.errors import AutodiffError

from .gradient_check import run_onnxruntime, run_reference

PASSED, FAILED, CANNOT_RUN = "passed", "failed", "cannot be run"
BY_NATURE, REFUSED, NOT_COVERED = "no derivative by nature", "refused", "of a kind that the rule refuses"
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
OLDEST = 18

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


class Way(NamedTuple):
    """A runtime, a floating type, the step of central differences, and the tolerance relative to the terms summed.

    jitter: how far inputs are moved first, so that none lies on a kink or ties with another.
    """

    name: str
    run: Callable[[ModelProto], Run]
    dtype: int
    jitter: float
    step: float
    tolerance: float


WAYS = (
    Way("reference evaluator, float64", run_reference, TensorProto.DOUBLE, 1e-3, 1e-7, 1e-6),
    Way("ONNX Runtime, float64", run_onnxruntime, TensorProto.DOUBLE, 1e-3, 1e-7, 1e-6),
    Way("ONNX Runtime, float32", run_onnxruntime, TensorProto.FLOAT, 5e-2, 1e-2, 1e-2),
    Way("reference evaluator, float32", run_reference, TensorProto.FLOAT, 5e-2, 1e-2, 1e-2),
)


@dataclass
class Result:
    """What came of a case.

    outcome: ``"passed"``, ``"failed"``, or why the case is skipped.
    inputs: those compared.
    error: the largest of |⟨v, ds/dx⟩ - central difference| over the terms summed.
    how: what evaluated it, and in which precision.
    details: what was refused, could not be run or failed, in words.
    """

    case: str
    operator: str
    outcome: str = CANNOT_RUN
    inputs: list[str] = field(default_factory=list)
    error: float = 0.0
    how: str = ""
    details: list[str] = field(default_factory=list)


@cache
def standard_cases() -> tuple[Any, ...]:
    """All node cases of the standard, by name."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        cases = onnx.backend.test.case.node.collect_testcases(None)
    return tuple(sorted(cases, key=lambda case: str(case.name)))


def operator(case: Any) -> str:
    """The operator that a case is about; the cases of its function body, written out, go by another name."""
    if "_expanded" in case.name:
        return "function bodies"
    return str(case.model.graph.node[-1].op_type)


def check(case: Any) -> Result:
    """Differentiate ``case`` with respect to every floating input that can be, and compare."""
    result = Result(case.name, operator(case))
    if why := out_of_scope(case):
        result.outcome = why
        return result
    model = case.model
    if model.opset_import[0].version < OLDEST:
        try:
            model = onnx.version_converter.convert_version(model, OLDEST)
        except (onnx.version_converter.ConvertError, RuntimeError) as error:
            result.outcome, result.details = "cannot be brought to opset 18", [str(error).partition("\n")[0]]
            return result
    for way in WAYS:
        if result.outcome == FAILED and way.dtype != TensorProto.DOUBLE:
            break
        found = Result(case.name, result.operator, how=way.name, details=result.details[:])
        _compare(case, model, way, found)
        if found.outcome != CANNOT_RUN or result.outcome != FAILED:
            result = found
        if result.outcome not in (FAILED, CANNOT_RUN):
            break
    return result


def out_of_scope(case: Any) -> str | None:
    """Why a case says nothing about a derivative, if so."""
    graph = case.model.graph
    if {entry.domain for entry in case.model.opset_import} - {""}:
        return "other domain"
    if any(value.type.WhichOneof("value") != "tensor_type" for value in (*graph.input, *graph.output)):
        return "sequence or optional input or output"
    if not all(any(_is_floating(value) for value in side) for side in (graph.input, graph.output)):
        return BY_NATURE
    if any(re.match("DynamicQuantize|QLinear", node.op_type) for node in graph.node):
        return "rounds: differentiated straight through by definition"
    return None


def _compare(case: Any, original: ModelProto, way: Way, result: Result) -> None:
    """Fill ``result`` in with what comes of differentiating ``case``, which is ``original`` by now, in one way."""
    model, kept = _retyped(original, way.dtype)
    types = {
        value.name: helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in model.graph.input
    }
    feeds = {name: _as_array(x).astype(types[name]) for name, x in zip(types, case.data_sets[0][0], strict=False)}
    wanted = [v.name for v in model.graph.input if _is_floating(v) and v.name not in kept and feeds[v.name].size]
    if way.dtype == TensorProto.DOUBLE and (_computes_in_float32(model) or (kept and not wanted)):
        return
    try:
        forward = way.run(model)
        if not _are_near(forward(feeds), case.data_sets[0][1]):  # a runtime may err, and so may the conversion
            raise ValueError("the outputs are not those that the case states")
    except Exception as error:  # noqa: BLE001  whatever a runtime raises
        result.details.append(f"{way.name}: {type(error).__name__}: {str(error)[:300]}")
        return
    rng = np.random.default_rng(20240503)
    reasons = set()
    for name in wanted:
        refusals, found = [], None
        for outputs, known in _attempts(model, feeds):
            try:
                found = _Functions(model, forward, way, name, outputs, known)
                break
            except AutodiffError as error:
                refusals.append(str(error))
            except _BrokenError as error:
                result.outcome, result.error = FAILED, np.inf
                result.details.append(f"{way.name}: {name}: {error}")
                return
            except Exception as error:  # noqa: BLE001  whatever a runtime or the standard's inference raises
                result.details.append(f"{way.name}: {type(error).__name__}: {str(error)[:300]}")
                return
        if found is None:
            reasons.add(_kind(refusals[-1]))
            result.details.append(f"{name}: {refusals[-1]}")
            continue
        for _ in range(1 if way.dtype == TensorProto.DOUBLE else 3):  # kinks may lie within a step in float32
            try:
                error, detail = found.error(feeds, wanted, rng)
            except Exception as raised:  # noqa: BLE001
                result.details.append(f"{way.name}: {type(raised).__name__}: {str(raised)[:300]}")
                return
            if error <= way.tolerance:
                break
        if np.isnan(error):
            reasons.add("infinite or undefined where the case lies")
            continue
        result.inputs.append(name)
        result.error = max(result.error, error)
        if error > way.tolerance:
            result.outcome = FAILED
            result.details.append(f"{way.name}: {detail}")
    if result.outcome != FAILED:
        order = (REFUSED, NOT_COVERED, BY_NATURE)
        skipped = sorted(reasons, key=lambda reason: order.index(reason) if reason in order else -1)
        result.outcome = PASSED if result.inputs else skipped[0] if skipped else BY_NATURE


def _attempts(model: ModelProto, feeds: Mapping[str, np.ndarray]) -> Iterator[tuple[list[str], dict[str, np.ndarray]]]:
    """The outputs to differentiate and the inputs to make constants: all and none, then less and more."""
    outputs = [value.name for value in model.graph.output if _is_floating(value)]
    known = {v.name: feeds[v.name] for v in model.graph.input if not _is_floating(v) and v.name in feeds}
    yield outputs, {}
    if known:
        yield outputs, known
    if len(outputs) > 1:
        yield outputs[:1], known


class _BrokenError(Exception):
    """A rule that raises what it should not, or emits what is no model."""


class _Functions:
    """s and ds/dx of one input, as functions of the feeds."""

    def __init__(
        self,
        model: ModelProto,
        forward: Run,
        way: Way,
        name: str,
        outputs: list[str],
        known: Mapping[str, np.ndarray],
    ) -> None:
        self.forward, self.way, self.name, self.outputs, self.known = forward, way, name, outputs, known
        proto = _summed(model, way.dtype, outputs, known)
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
        found = ir.from_proto(inferred)
        x = next(value for value in found.graph.inputs if value.name == name)
        try:
            (dx,) = gradients(found, of=found.graph.outputs[0], wrt=[x])
            dx.name = "check_dx"
            found.graph.outputs.append(dx)
            onnx.checker.check_model(ir.to_proto(found), full_check=True)
        except AutodiffError:
            raise
        except Exception as error:
            raise _BrokenError(f"{type(error).__name__}: {str(error)[:300]}") from error
        self.backward = way.run(ir.to_proto(found))

    def error(self, feeds: Mapping[str, np.ndarray], moved: list[str], rng: np.random.Generator) -> tuple[float, str]:
        """|⟨v, ds/dx⟩ - central difference| over the terms summed, near ``feeds``; nan where it is undefined."""

        def step(x: np.ndarray, size: float, v: np.ndarray) -> np.ndarray:
            return np.asarray(x + size * v, x.dtype)

        fed = dict(feeds) | {
            name: step(feeds[name], self.way.jitter, rng.standard_normal(feeds[name].shape)) for name in moved
        }
        x, h = fed[self.name], self.way.step
        v = rng.standard_normal(x.shape)
        up, down = step(x, h, v), step(x, -h, v)
        with np.errstate(invalid="ignore"):
            v = np.where(np.isfinite(x), np.subtract(up, down, dtype=np.float64) / (2 * h), 0)  # as it was rounded
        ys = self.forward(fed)
        us = {_U + y: _seed(ys[y], x.dtype, rng) for y in self.outputs}
        found = self.backward({name: x for name, x in (fed | us).items() if name not in self.known})
        dx = found["check_dx"].astype(np.float64)
        if dx.shape != x.shape:
            return np.inf, f"d{self.name} is of shape {dx.shape}, {self.name} of {x.shape}"

        def s(at: np.ndarray) -> np.ndarray:
            ys = self.forward({**fed, self.name: at})
            pairs = [(us[_U + y].astype(np.float64), ys[y]) for y in self.outputs]
            return np.concatenate([np.where(u == 0, 0, u * y).ravel() for u, y in pairs])

        with np.errstate(invalid="ignore"):
            after, before = s(up), s(down)
        changes = (after - before) / (2 * h)
        rounding = np.abs(after).sum() * float(np.finfo(x.dtype).eps) / h
        scale = np.abs(changes).sum() + np.abs(v * dx).sum() + 1e-3 + 10 * rounding / self.way.tolerance
        by_rule, by_difference = float(np.vdot(v, dx)), float(changes.sum())
        if np.isnan(by_rule) and not any(np.isnan(ys[y]).any() for y in self.outputs):
            scale = 0.0  # no excuse
        detail = f"d{self.name}: ⟨v, ds/dx⟩ = {by_rule:.8g}, central difference {by_difference:.8g}"
        return abs(by_rule - by_difference) / float(scale) if scale else np.inf, detail


_U = "check_u_"
"""What the names of the adjoints u start with."""


def _summed(model: ModelProto, dtype: int, outputs: list[str], known: Mapping[str, np.ndarray]) -> ModelProto:
    """``model`` with s = Σ ⟨u, y⟩ over ``outputs`` as its one output, each u an input, and constants for ``known``."""
    proto = ModelProto()
    proto.CopyFrom(model)
    graph = proto.graph
    kept = [value for value in graph.input if value.name not in known]
    values = {value.name: value for value in graph.output}
    graph.ClearField("input")
    graph.ClearField("output")
    graph.input.extend(kept)
    graph.value_info.extend(values.values())
    graph.initializer.extend(numpy_helper.from_array(x, name) for name, x in known.items())
    for y in outputs:
        graph.input.append(helper.make_value_info(_U + y, values[y].type))
        graph.input[-1].type.tensor_type.elem_type = dtype
        graph.node.append(helper.make_node("Cast", [y], [f"check_{y}"], to=dtype))
        graph.node.append(helper.make_node("Mul", [f"check_{y}", _U + y], [f"check_p_{y}"]))
        graph.node.append(helper.make_node("ReduceSum", [f"check_p_{y}"], [f"check_s_{y}"], keepdims=0))
    graph.node.append(helper.make_node("Sum", [f"check_s_{y}" for y in outputs], ["check_s"]))
    graph.output.append(helper.make_tensor_value_info("check_s", dtype, []))
    return proto


def _are_near(found: Mapping[str, np.ndarray], stated: list[Any]) -> bool:
    pairs = [(np.asarray(y), _as_array(x)) for y, x in zip(found.values(), stated, strict=True)]
    return all(y.shape == x.shape and _near(y.astype(np.float64), x.astype(np.float64)) for y, x in pairs)


def _near(found: np.ndarray, stated: np.ndarray) -> bool:
    finite = stated[np.isfinite(stated)]
    return np.allclose(found, stated, rtol=2e-2, atol=2e-2 * np.abs(finite).max(initial=1e-2), equal_nan=True)


def _seed(y: np.ndarray, dtype: np.dtype, rng: np.random.Generator) -> np.ndarray:
    """A random adjoint of ``y``, 0 where that is not finite."""
    return np.asarray(np.where(np.isfinite(y), rng.standard_normal(y.shape), 0), dtype)


def _as_array(given: Any) -> np.ndarray:
    return numpy_helper.to_array(given) if isinstance(given, TensorProto) else np.asarray(given)


def _kind(refusal: str) -> str:
    """Under what a refusal is counted."""
    if "does not depend on" in refusal:
        return BY_NATURE
    known = ("is not differentiated", "has no derivative rule", "has a rule for versions")
    return REFUSED if any(words in refusal for words in known) else NOT_COVERED


def _is_floating(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type in FLOATS


def _computes_in_float32(model: ModelProto) -> bool:
    """Whether the operator rounds to float32 within, whatever its inputs are."""
    opset, nodes = model.opset_import[0].version, model.graph.node
    return any(
        "stash_type" in onnx.defs.get_schema(node.op_type, opset).attributes
        or any(attribute.name == "softmax_precision" for attribute in node.attribute)
        for node in nodes
    )


def _retyped(original: ModelProto, dtype: int) -> tuple[ModelProto, set[str]]:
    """``original`` with floating values of ``dtype``, and the values that operators require to be float32."""
    model = ModelProto()
    model.CopyFrom(original)
    kept = set()
    if dtype == TensorProto.DOUBLE:
        for node in model.graph.node:
            schema = onnx.defs.get_schema(node.op_type, model.opset_import[0].version, node.domain)
            for i, name in enumerate(node.input):
                if "tensor(double)" not in schema.inputs[min(i, len(schema.inputs) - 1)].types:
                    kept.add(name)
    _retype(model.graph, dtype, kept)
    return model, kept


def _retype(graph: GraphProto, dtype: int, kept: set[str]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        if _is_floating(value) and value.name not in kept:
            value.type.tensor_type.elem_type = dtype
    for tensor in graph.initializer:
        if tensor.name not in kept:
            _retype_tensor(tensor, dtype)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _retype(attribute.g, dtype, kept)
            elif attribute.type == onnx.AttributeProto.TENSOR and not kept.intersection(node.output):
                _retype_tensor(attribute.t, dtype)
            elif attribute.name == "to" and attribute.i in FLOATS and not kept.intersection(node.output):
                attribute.i = dtype


def _retype_tensor(tensor: TensorProto, dtype: int) -> None:
    if tensor.data_type in FLOATS:
        x = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(dtype))
        tensor.CopyFrom(numpy_helper.from_array(x, tensor.name))
