"""The functions that operators stand for: an operator without a rule is differentiated through its function's body."""

from __future__ import annotations

__all__ = ["function_body", "has_standard_body"]

from collections.abc import Mapping, Sequence

import onnx
import onnx_ir as ir
from onnx.inliner import inline_local_functions, inline_selected_functions

from onnxcam.autodiff.registry import ALL, Rule, Site, is_refused


def function_body(
    node: ir.Node, functions: Mapping[ir.OperatorIdentifier, ir.Function], opset_imports: Mapping[str, int]
) -> Rule | None:
    """A rule for ``node`` through its function: the model's own, or the one that onnx states for the operator."""
    local = node.op_identifier() in functions
    if not local and not has_standard_body(node, opset_imports):
        return None

    def build(at: Site) -> Sequence[ir.Value | None]:
        body = _inlined(node, functions if local else {}, opset_imports)
        found = at.op.call_inline(body, *(x for x in at.x if x is not None))
        ys = iter([found] if isinstance(found, ir.Value) else found)
        return [next(ys) if _wanted(node, i) else None for i in range(len(node.outputs))]

    return Rule(node.op_type, node.domain, (), ALL, False, None, build)


def has_standard_body(node: ir.Node, opset_imports: Mapping[str, int]) -> bool:
    """Whether onnx states a function for the operator of ``node``, which is not refused."""
    if is_refused(node) or not onnx.defs.has(node.op_type, node.domain):
        return False
    schema = onnx.defs.get_schema(node.op_type, opset_imports.get(node.domain, 1), node.domain)
    return bool(schema.has_function or schema.has_context_dependent_function)  # type: ignore[attr-defined]  # not in onnx's stubs


def _wanted(node: ir.Node, output: int) -> bool:
    """Whether anything reads an output of ``node``; the first always exists."""
    y = node.outputs[output]
    return output == 0 or bool(y.uses()) or y.is_graph_output()


def _inlined(
    node: ir.Node, functions: Mapping[ir.OperatorIdentifier, ir.Function], opset_imports: Mapping[str, int]
) -> ir.Function:
    """The body of ``node`` as a function of its inputs: attributes filled in, types and shapes inferred."""
    inputs = {f"x{i}": x for i, x in enumerate(node.inputs) if x is not None}
    outputs = [f"y{i}" if _wanted(node, i) else "" for i in range(len(node.outputs))]
    alone = onnx.NodeProto(domain=node.domain, op_type=node.op_type, overload=node.overload, output=outputs)
    alone.input.extend("" if x is None else f"x{i}" for i, x in enumerate(node.inputs))
    alone.attribute.extend(ir.to_proto(attribute) for attribute in node.attributes.values())
    if not functions:
        alone.attribute.extend(_left_out(node, opset_imports))
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
        opset_imports=[onnx.helper.make_opsetid(*entry) for entry in opset_imports.items()],
        functions=[ir.to_proto(function) for function in functions.values()],
    )
    if functions:
        proto = inline_local_functions(proto)
    elif stated := _stated(proto):
        proto.graph.node[0].domain = stated.domain
        proto.functions.append(stated)
        proto = inline_local_functions(proto)
    else:
        proto = inline_selected_functions(proto, [(node.domain, node.op_type)], inline_schema_functions=True)
    body = ir.from_proto(_with_ranks(proto)).graph
    body.initializers.clear()  # they are inputs as well
    return ir.Function(node.domain, node.op_type, graph=body, attributes=())


def _stated(model: onnx.ModelProto) -> onnx.FunctionProto | None:
    """The function that onnx states for the node of ``model``, where it depends on the node.

    onnx's inliner does not take such nodes where one of their inputs is left out.
    """
    (node,), opsets = model.graph.node, {entry.domain: entry.version for entry in model.opset_import}
    schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    if not schema.has_context_dependent_function:  # type: ignore[attr-defined]  # not in onnx's stubs
        return None
    known = {value.name: value.type for value in model.graph.input}
    types = [known.get(name, onnx.TypeProto()).SerializeToString() for name in node.input]
    built = schema.get_context_dependent_function(node.SerializeToString(), types)  # type: ignore[attr-defined]
    function: onnx.FunctionProto = onnx.FunctionProto.FromString(built)
    function.domain = "stated"
    del function.opset_import[:]
    function.opset_import.extend(model.opset_import)
    model.opset_import.append(onnx.helper.make_opsetid(function.domain, 1))
    return function


def _with_ranks(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with types and shapes inferred, at least the ranks.

    onnx stops at a Split whose sizes are computed, though its outputs have the rank of its input.
    """
    while True:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        graph = model.graph
        shaped = {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info, *graph.output)}
        stopped = [
            (shaped[node.input[0]], shaped[y])
            for node in graph.node
            if node.op_type == "Split" and node.input[0] in shaped and shaped[node.input[0]].HasField("shape")
            for y in node.output
            if y in shaped and not shaped[y].HasField("shape")
        ]
        if not stopped:
            return model
        for x, y in stopped:
            y.shape.dim.extend([onnx.TensorShapeProto.Dimension()] * len(x.shape.dim))


_SHAPING = 64
"""Elements up to which a constant may be a shape, axes or the like, and is shown to shape inference."""


def _left_out(node: ir.Node, opset_imports: Mapping[str, int]) -> list[onnx.AttributeProto]:
    """The attributes that ``node`` leaves out, with the values they then have."""
    known = onnx.defs.get_schema(node.op_type, opset_imports.get(node.domain, 1), node.domain).attributes.items()
    return [a.default_value for name, a in known if a.default_value.type and name not in node.attributes]
