from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from onnxcam.autodiff import ALL, registry, rule, rules


def _named(op_type: str, *, opset: int, active=(True,), domain: str = ""):
    return registry.find_rule(ir.node(op_type, [ir.val("x")], domain=domain), opset=opset, active=active)


def test_a_second_rule_for_an_operator_is_refused():
    with pytest.raises(ValueError, match="operator Relu has a rule already: relu"):
        rule("Relu", versions=(14,))(lambda at, dy: (lambda: dy,))


def test_the_table_of_rules_cannot_be_written():
    with pytest.raises(TypeError):
        rules()["", "Relu"] = None


def _schema(domain: str, op_type: str, version: int | None = None):
    """The operator as onnx states it, or ONNX Runtime where it is its own."""
    if onnx.defs.has(op_type, domain):
        return onnx.defs.get_schema(op_type, *([] if version is None else [version]), domain)
    return OF_ONNXRUNTIME[domain, op_type]


OF_ONNXRUNTIME = {(schema.domain, schema.name): schema for schema in get_all_operator_schema()}


def test_every_rule_names_existing_versions_and_inputs_of_its_operator():
    for (domain, op_type), found in rules().items():
        for version in found.versions:
            schema = _schema(domain, op_type, version)
            assert schema.since_version == version, f"{op_type}-{version}"
        inputs = [i for i in found.inputs if i != ALL] if found.inputs != ALL else []
        assert all(i < len(schema.inputs) for i in inputs), op_type


def test_every_rule_covers_the_newest_version_of_its_operator():
    missing = {
        op_type: _schema(domain, op_type).since_version
        for (domain, op_type), found in rules().items()
        if _schema(domain, op_type).since_version not in found.versions
    }
    assert missing == {}


def test_find_rule_gives_the_version_in_effect():
    found, version = _named("Relu", opset=18)
    assert (found.op_type, version) == ("Relu", 14)


@pytest.mark.parametrize(
    ("op_type", "opset", "active", "domain", "why"),
    [
        ("NonZero", 18, (True,), "", "has no derivative rule"),
        ("Snpe", 1, (True,), "com.microsoft", "is not a standard operator"),
        ("Nonsense", 18, (True,), "", "is not known to the installed onnx"),
        ("Softmax", 12, (True,), "", "has a rule for versions 13 only"),
        ("Clip", 18, (True, True, True), "", "is not differentiated with respect to input 1, 2"),
    ],
)
def test_find_rule_says_why_there_is_none(op_type, opset, active, domain, why):
    assert _named(op_type, opset=opset, active=active, domain=domain) == why
