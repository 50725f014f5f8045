from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from onnxcam.autodiff import registry

DOCS = Path(__file__).parents[2] / "docs"


def _script():
    """The module docs/operators.py."""
    spec = importlib.util.spec_from_file_location("operators", DOCS / "operators.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OPERATORS = _script()


def test_every_operator_of_the_standard_is_sorted():
    unsorted = [
        f"{row.operator}-{', '.join(map(str, row.versions))}"
        for row in OPERATORS.standard_rows()
        if row.how == OPERATORS.UNSORTED
    ]
    assert unsorted == [], "give each a rule, or a reason in onnxcam/autodiff/rules/undifferentiated.py"


def test_every_operator_that_is_not_deprecated_has_a_row():
    named = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    missing = named - {row.operator for row in OPERATORS.standard_rows()}
    assert {name for name in missing if not onnx.defs.get_schema(name).deprecated} == set()


def test_the_page_of_operators_is_what_the_registry_says():
    written = OPERATORS.PAGE.read_text(encoding="utf-8")
    assert written == OPERATORS.page(), "run: python docs/operators.py"


def test_a_version_that_nobody_sorted_is_seen(monkeypatch):
    """A rule for an older version alone, and an operator without a word on it."""
    gemm = registry.rules()["", "Gemm"]
    monkeypatch.setitem(registry._rules, ("", "Gemm"), registry.Rule("Gemm", "", (11,), (0,), False, gemm.vjp))
    monkeypatch.delitem(registry._without, ("", "ArgMax"))
    unsorted = [(row.operator, row.versions) for row in OPERATORS.standard_rows() if row.how == OPERATORS.UNSORTED]
    assert unsorted == [("ArgMax", (13,)), ("Gemm", (13,))]


def test_reasons_name_operators_that_exist():
    standard = {name for without in registry.sorted_without_rule() for domain, name in without if domain == ""}
    assert {name for name in standard if not onnx.defs.has(name)} == set()


def test_an_operator_is_not_both_refused_and_without_a_derivative():
    without, refused = registry.sorted_without_rule()
    assert set(without) & set(refused) == set()


@pytest.mark.parametrize("state", [registry.without_adjoint, registry.refuse])
def test_a_rule_has_precedence(state, monkeypatch):
    for table in ("_without", "_refused"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    state("Relu", "Nonsense", why="so it is said")
    relu, nonsense = (ir.node(op_type, [ir.val("x")]) for op_type in ("Relu", "Nonsense"))
    assert registry.has_adjoint(relu)
    assert not registry.is_refused(relu)
    assert registry.find_rule(relu, opset=18, active=(True,)) == (registry.rules()["", "Relu"], 14)
    assert registry.has_adjoint(nonsense) == (state is registry.refuse)
    assert registry.is_refused(nonsense) == (state is registry.refuse)


def test_a_refused_operator_says_why():
    node = ir.node("Unique", [ir.val("x")])
    why = registry.find_rule(node, opset=18, active=(True,))
    assert why == "is not differentiated: the number of values depends on the values"
