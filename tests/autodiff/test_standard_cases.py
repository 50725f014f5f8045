"""The standard's own node cases, a few for each operator; benchmarks/standard_cases.py runs all of them."""

from __future__ import annotations

from functools import cache
from typing import Any

import onnx
import pytest

from onnxcam.autodiff import registry, rules

from .standard_cases import FAILED, PASSED, check, operator, out_of_scope, standard_cases

AT_MOST = 3
"""Cases of one operator."""

UNCHECKED = {
    "ConvInteger": "integers alone",
    "DynamicQuantizeLinear": "rounds",
    "GlobalLpPool": "it has no case",
    "If": "its cases hold sequences",
    "MatMulInteger": "integers alone",
    "MeanVarianceNormalization": "its function holds float32 constants, and shape inference does not take it",
    "QLinearConv": "integers alone",
    "QLinearMatMul": "integers alone",
    "QuantizeLinear": "rounds",
    "Range": "its case lies where one value more begins",
    "Trilu": "its cases are of integers",
}
"""Operators whose cases need not be differentiated, and why. They are where they can be."""


def _differentiated() -> list[str]:
    """The operators with a rule, or a function that onnx states, at the newest opset."""
    without, refused = registry.sorted_without_rule()
    named = {name for domain, name in rules() if not domain and onnx.defs.has(name)}
    schemas = (onnx.defs.get_schema(schema.name) for schema in onnx.defs.get_all_schemas() if schema.domain == "")
    stated = {schema.name for schema in schemas if schema.has_function or schema.has_context_dependent_function}
    return sorted(named | {name for name in stated if ("", name) not in without and ("", name) not in refused})


@cache
def _sample() -> dict[str, list[Any]]:
    """For each operator up to `AT_MOST` of its cases, from the first to the last."""
    by_operator: dict[str, list[Any]] = {}
    for case in standard_cases():
        if out_of_scope(case) is None:
            by_operator.setdefault(operator(case), []).append(case)
    return {name: cases[:: -(-len(cases) // AT_MOST)] for name, cases in by_operator.items()}


@pytest.mark.parametrize("name", _differentiated())
def test_the_gradient_is_the_central_difference(name):
    results = [check(case) for case in _sample().get(name, [])]
    assert [result for result in results if result.outcome == FAILED] == []
    assert name in UNCHECKED or any(result.outcome == PASSED for result in results), results
