# SPDX-License-Identifier: Apache-2.0
"""passes.patterns.custom_ops.operator_table: operators as other versions of vLLM have them."""

import dataclasses
from functools import partial

import pytest
import torch

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.match.matched_graph import match_graph
from helion_compile.passes.patterns import PATTERNS
from helion_compile.passes.patterns.custom_ops import library_table
from helion_compile.passes.patterns.custom_ops.operator_table import OperatorPattern
from helion_compile.passes.patterns.custom_ops.vllm_table import OPERATORS
from tests.support.vllm.calls import Calls
from tests.support.vllm.matching import BF16, ops, sites


def test_no_row_is_left_without_a_pattern():
    anchors = set().union(*(pattern.ANCHORS for pattern in PATTERNS if isinstance(pattern, OperatorPattern)))
    assert anchors == OPERATORS.keys() | library_table.OPERATORS.keys()


@pytest.fixture
def another_version(monkeypatch):
    """Defines an operator as some version of vLLM might have it, with the rows of the one that it stands for."""

    def define(schema, name):
        library = torch.library.Library("another_version", "FRAGMENT")
        libraries.append(library)
        library.define(schema)
        operator = schema.partition("(")[0]
        torch.library.register_fake(f"another_version::{operator}", lambda *args, **kwargs: None, lib=library)
        op = getattr(ops.another_version, operator).default
        if name in OPERATORS:
            monkeypatch.setitem(OPERATORS, str(op), OPERATORS[name])
        return op

    libraries = []
    yield define
    for library in libraries:
        library._destroy()


def unknown(graph, found):
    """The one candidate of ``graph`` is refused as an operator that no tested version has."""
    (refusal,) = match_graph(graph).refusals
    assert refusal.kind is RefusalKind.UNKNOWN_OPERATOR and refusal.candidate == "norm"
    assert (refusal.found, refusal.remedy) == (
        found,
        "one with the arguments that passes/patterns/custom_ops lists can be read",
    )


def normed(op, weight="weight", **more):
    calls = Calls()
    result, x = calls.empty(4, 64, dtype=BF16), calls.input(4, 64)
    call = calls.functional(op, result=result, input=x, **{weight: calls.input(64)}, epsilon=1e-6, **more)
    return calls.output(*calls.items(call, 1))


def test_an_operator_without_the_argument_it_had_is_refused(another_version):
    op = another_version("rms_norm(Tensor! result, Tensor input, Tensor gamma, float epsilon) -> ()", "_C.rms_norm.default")
    unknown(normed(op, "gamma"), "another_version.rms_norm is given gamma=arg2")


@pytest.mark.parametrize(("given", "read_as"), [(False, 1), (True, 0)])
def test_a_new_argument_may_only_have_its_default_value(another_version, given, read_as):
    schema = "rms_norm(Tensor! result, Tensor input, Tensor? weight, float epsilon, bool gemma=False) -> ()"
    graph = normed(another_version(schema, "_C.rms_norm.default"), gemma=given)
    assert len(match_graph(graph).matches) == read_as
    if given:
        unknown(graph, "another_version.rms_norm is given gemma=True")


def test_an_operator_that_writes_elsewhere_is_refused(another_version):
    op = another_version("rms_norm(Tensor result, Tensor input, Tensor! weight, float epsilon) -> ()", "_C.rms_norm.default")
    unknown(normed(op), "another_version.rms_norm was known to write to 'result', and does not")


def test_an_operator_of_another_name_is_not_found(another_version):
    op = another_version("norm_rms(Tensor! result, Tensor input, Tensor? weight, float epsilon) -> ()", "_C.norm_rms.default")
    graph = normed(op)
    before = str(graph)
    assert sites(graph) == [] and str(graph) == before


def test_a_form_of_another_version_is_a_row_of_its_own(another_version, monkeypatch):
    """The row whose arguments fit is taken; what fits none is refused by the last."""
    name = "_C.rms_norm.default"
    (row,) = OPERATORS[name]
    renamed = partial(row.builders["norm"], x="hidden")
    newer = dataclasses.replace(row, arguments="result! hidden weight epsilon", builders={"norm": renamed})
    monkeypatch.setitem(OPERATORS, name, (row, newer))
    schema = "rms_norm(Tensor! result, Tensor {}, Tensor? weight, float epsilon) -> ()"
    for argument, matches in (("input", 1), ("hidden", 1), ("x", 0)):
        op = another_version(schema.format(argument).replace("rms_norm", f"rms_norm_{argument}"), name)
        calls = Calls()
        result, x = calls.empty(4, 64, dtype=BF16), calls.input(4, 64)
        call = calls.functional(op, result=result, weight=calls.input(64), epsilon=1e-6, **{argument: x})
        assert len(match_graph(calls.output(*calls.items(call, 1))).matches) == matches, argument
