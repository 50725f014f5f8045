"""Operators differentiated through the standard operators that compute the same.

The forward node stays as it is: the body is emitted beside it, differentiated, and only what the adjoints read of it
is kept. Where they read its results, they read those of the forward node instead.
"""

from __future__ import annotations

__all__ = ["expansion", "function_body", "has_standard_body"]

from collections.abc import Callable, Mapping, Sequence

import onnx
import onnx_ir as ir
from onnx.inliner import inline_local_functions, inline_selected_functions

from onnxcam.autodiff.registry import ALL, Adjoint, Rule, Site, rule

Build = Callable[[Site], Sequence[ir.Value | None]]


def expansion(op_type: str, *, domain: str = "", versions: tuple[int, ...] = (1,)) -> Callable[[Build], Build]:
    """Register the decorated function, which emits what ``op_type`` stands for and gives a value for each output.

    None stands for an output that is not differentiable.
    """

    def register(build: Build) -> Build:
        rule(op_type, versions=versions, inputs=ALL, domain=domain, build=build)(_through(build))
        return build

    return register


def function_body(node: ir.Node, model: ir.Model) -> Rule | None:
    """A rule for ``node`` through its function: the model's own, or the one that onnx states for the operator."""
    if node.op_identifier() not in model.functions and not has_standard_body(node, model.graph.opset_imports):
        return None

    def build(at: Site) -> Sequence[ir.Value | None]:
        found = at.op.call_inline(_inlined(node, model), *(x for x in at.x if x is not None))
        ys = iter([found] if isinstance(found, ir.Value) else found)
        return [next(ys) if _wanted(node, i) else None for i in range(len(node.outputs))]

    return Rule(node.op_type, node.domain, (), ALL, False, _through(build), build)


def has_standard_body(node: ir.Node, opset_imports: Mapping[str, int]) -> bool:
    """Whether onnx states a function for the operator of ``node``."""
    if not onnx.defs.has(node.op_type, node.domain):
        return False
    schema = onnx.defs.get_schema(node.op_type, opset_imports.get(node.domain, 1), node.domain)
    return bool(schema.has_function or schema.has_context_dependent_function)  # type: ignore[attr-defined]  # not in onnx's stubs


def _through(build: Build) -> Callable[..., Sequence[Adjoint | None]]:
    """The derivative of what ``build`` emits."""

    def vjp(at: Site, *dys: ir.Value | None) -> Sequence[Adjoint | None]:
        before = set(at.op.builder.graph)
        ys = build(at)
        seeds = {y: dy for y, dy in zip(ys, dys, strict=False) if y is not None and dy is not None}
        wanted = [x for x, active in zip(at.x, at.active, strict=True) if active and x is not None]
        dxs = at.pull_back(seeds, wanted)
        for y, forward in zip(ys, at.y, strict=False):
            if y is not None and y.producer() not in before and y.dtype == forward.dtype:
                ir.convenience.replace_all_uses_with(y, forward)
        given: set[ir.Value] = set()
        return [
            _once(dxs.get(x) if active and x is not None else None, given)
            for x, active in zip(at.x, at.active, strict=True)
        ]

    return vjp


def _once(dx: ir.Value | None, given: set[ir.Value]) -> Adjoint | None:
    """``dx`` as an adjoint, the first time: that of an input that stands twice is of both uses already."""
    if dx is None or dx in given:
        return None
    given.add(dx)
    return lambda: dx


def _wanted(node: ir.Node, output: int) -> bool:
    """Whether anything reads an output of ``node``; the first always exists."""
    y = node.outputs[output]
    return output == 0 or bool(y.uses()) or y.is_graph_output()


def _inlined(node: ir.Node, model: ir.Model) -> ir.Function:
    """The body of ``node`` as a function of its inputs: attributes filled in, types and shapes inferred."""
    inputs = {f"x{i}": x for i, x in enumerate(node.inputs) if x is not None}
    outputs = [f"y{i}" if _wanted(node, i) else "" for i in range(len(node.outputs))]
    alone = onnx.NodeProto(domain=node.domain, op_type=node.op_type, overload=node.overload, output=outputs)
    alone.input.extend("" if x is None else f"x{i}" for i, x in enumerate(node.inputs))
    alone.attribute.extend(ir.to_proto(attribute) for attribute in node.attributes.values())
    alone.attribute.extend(_left_out(node, model))
    constants = {name: ir.convenience.get_const_tensor(x) for name, x in inputs.items()}
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            [alone],
            "body",
            [ir.to_proto(ir.Value(name=name, type=x.type, shape=x.shape)) for name, x in inputs.items()],
            [onnx.ValueInfoProto(name=name) for name in outputs if name],
            [
                onnx.numpy_helper.from_array(known.numpy(), name)
                for name, known in constants.items()
                if known is not None and known.size <= _SHAPING
            ],
        ),
        opset_imports=[onnx.helper.make_opsetid(*entry) for entry in model.graph.opset_imports.items()],
        functions=[ir.to_proto(function) for function in model.functions.values()],
    )
    if node.op_identifier() in model.functions:
        proto = inline_local_functions(proto)
    else:
        proto = inline_selected_functions(proto, [(node.domain, node.op_type)], inline_schema_functions=True)
    body = ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True)).graph
    body.initializers.clear()  # they are inputs as well
    return ir.Function(node.domain, node.op_type, graph=body, attributes=())


_SHAPING = 64
"""Elements up to which a constant may be a shape, axes or the like, and is shown to shape inference."""


def _left_out(node: ir.Node, model: ir.Model) -> list[onnx.AttributeProto]:
    """The attributes that ``node`` leaves out, with the values they then have."""
    if node.op_identifier() in model.functions:
        return []
    opset = model.graph.opset_imports.get(node.domain, 1)
    known = onnx.defs.get_schema(node.op_type, opset, node.domain).attributes.items()
    return [a.default_value for name, a in known if a.default_value.type and name not in node.attributes]
