# SPDX-License-Identifier: Apache-2.0
"""Every row of the table is found exactly once, with its attributes, and these say what it computes."""

import dataclasses
import itertools

import pytest
import torch

from helion_compile.passes.match.matched_graph import match_graph
from helion_compile.passes.patterns.aten import matmul
from helion_compile.passes.patterns.custom_ops import library_table
from helion_compile.passes.semantics import Activation, ComplexRope, Concat, Matmul, Modulate, Norm, Quantize, Rope
from tests.support import conformance, interpret, stubs
from tests.support.capture import capture
from tests.support.checks import assert_near, assert_same_bits
from tests.support.conformance import argument, arguments, of_any_number_of_rows
from tests.support.corpus.activations import ACTIVATIONS
from tests.support.corpus.all_quantisers import OPAQUE_QUANTISERS, QUANTISERS
from tests.support.corpus.concats import CONCATS
from tests.support.corpus.matmuls import PRODUCTS
from tests.support.corpus.modulations import MODULATIONS
from tests.support.corpus.norms import NORMS
from tests.support.corpus.ropes import ROPES

BF16, FP32 = torch.bfloat16, torch.float32


def only(graph, behind=False):
    """The one match of a graph, in which nothing was refused; or the one ``behind`` another."""
    matched = match_graph(graph)
    assert not matched.refusals, matched.refusals
    assert matched.matches, "neither a match nor a refusal: no anchor, or match_at gave None for what feeds it"
    *others, match = matched.matches
    assert len(others) == behind
    return match


@pytest.fixture(autouse=True, scope="module")
def libraries():
    with stubs.libraries():
        yield


TABLES = NORMS, MODULATIONS, QUANTISERS + OPAQUE_QUANTISERS, ACTIVATIONS, CONCATS, ROPES, PRODUCTS
CASES = [(row, dtype) for rows in TABLES for row in rows for dtype in row.dtypes]


def traced():
    """Each case with sizes known and unknown.  Of a row two are no slow tests: one size of each kind, in two dtypes.

    Which kind goes with which dtype changes from row to row, so that the rows of a module have every pair.
    """
    rows = [row for table in TABLES for row in table]
    for number, row in enumerate(rows):
        kinds = (
            {row.dtypes[0]: number % 2 == 0, row.dtypes[(number // 2) % (len(row.dtypes) - 1) + 1]: number % 2 == 1}
            if (len(row.dtypes) > 1)
            else {}
        )
        for dtype, dynamic in itertools.product(row.dtypes, (False, True)):
            fast = not kinds or kinds.get(dtype) == dynamic
            yield pytest.param(row, dtype, dynamic, marks=[] if fast else [pytest.mark.slow])


PROMISES = {
    Norm: interpret.norm,
    Modulate: interpret.modulate,
    Quantize: interpret.quantize,
    Activation: interpret.activation,
    Concat: interpret.concat,
    Rope: interpret.rope,
    ComplexRope: interpret.rope,
    Matmul: interpret.matmul,
}


@pytest.mark.parametrize(("row", "dtype", "dynamic"), list(traced()), ids=lambda value: str(value).removeprefix("torch."))
def test_read_once(row, dtype, dynamic):
    if not row.traced:
        pytest.skip("this torch does not trace it")
    given = arguments(row, dtype)
    function = row.of(dtype)

    def program(*tensors):
        if dynamic and row.scales and given["a_scale"].shape[:1] == given["a"].shape[:1]:
            # Where a quantiser gives both they have as many rows; torch 2.11's fake product does not ask for it.
            torch._check(tensors[2].shape[0] == tensors[0].shape[0])
        return function(row.behind(tensors[0]), *tensors[1:]) if row.behind else function(*tensors)

    if dynamic:
        of_any_number_of_rows(row, given)
    captured = capture(program, *given.values(), dynamic=None if dynamic else False)
    match = only(captured.graph, behind=row.behind is not None)
    expected = row.op(dtype)
    if "residual" in given:
        expected = dataclasses.replace(expected, residual=True, unrounded_sum=str(row) == "unrounded_sum")
    assert match.op == expected
    if row in PRODUCTS:
        assert row.who.startswith(f"`{match.anchor.target}`".replace(".default", ""))
        assert list(match.outputs["out"]) == list(captured.graph.output_node().args[0])
    placeholders = captured.graph.find_nodes(op="placeholder")
    if row.behind:
        assert list(match.inputs) == list(given)
        del match.inputs[row.operands[0]], given[row.operands[0]]
    found = {name: captured.arguments[placeholders.index(node)] for name, node in match.inputs.items()}
    assert {name: id(tensor) for name, tensor in found.items()} == {name: id(tensor) for name, tensor in given.items()}


HOW = ("read elsewhere", "not read", "in place")
BEHIND = [
    pytest.param(row, how, marks=[] if (number + HOW.index(how)) % 3 == 0 or number < 3 else [pytest.mark.slow])
    for number, row in enumerate(row for row in NORMS if row.residual)
    for how in HOW
]


@pytest.mark.parametrize(("row", "how"), BEHIND, ids=str)
def test_read_behind_an_addition(row, how):
    def program(residual, x, *others):
        total = x.add_(residual) if how == "in place" else x + residual
        out = row.function(total, *others)
        return (out, total) if how == "read elsewhere" else out

    given = arguments(row, BF16)
    residual = argument("residual", row, BF16)
    match = only(capture(program, residual, *given.values()).graph)
    assert match.op == dataclasses.replace(row.op(BF16), residual=True)
    assert set(match.inputs) == {"residual", *row.operands}
    assert len(match.outputs["sum"]) == 1


@pytest.mark.parametrize(("row", "dtype"), CASES, ids=str)
def test_the_attributes_say_what_is_computed(row, dtype):
    if not row.runs:
        pytest.skip("nothing computes it on a CPU with this torch")
    given = arguments(row, dtype)
    op = row.op(dtype)
    if "residual" in given:
        op = dataclasses.replace(op, residual=True, unrounded_sum=str(row) == "unrounded_sum")
    promised = list(PROMISES[type(op)](op, **given).values())
    if str(row) == "gated":  # the gate is no part of the norm
        promised[0] = promised[0] * torch.sigmoid(given["x"].to(FP32))
    found = row.of(dtype)(*given.values())
    found = found if isinstance(found, tuple) else (found,)
    for eager, expected in zip(found, promised, strict=False):
        assert eager.dtype == expected.dtype
        if row.exact:
            assert_same_bits(eager.reshape(expected.shape), expected)
        else:
            assert_near(eager, expected)


def test_layouts_are_what_memory_has():
    """The interpretation's strides are those of the written scales."""
    for row in QUANTISERS:
        if row.op(BF16).group is None:
            continue
        given = arguments(row, BF16)
        _, written = row.function(*given.values())
        promised = interpret.quantize(row.op(BF16), **given)["scale"]
        if written.dim() == promised.dim() == 2:
            assert written.stride() == promised.stride(), row


def test_every_attribute_has_a_row_that_sets_it():
    """No field of the semantic ops is without a row that needs it."""
    # Others set these: a row behind an addition, an operator of vLLM, a program of fusions/test_norm_quant.py.
    elsewhere = {"eps", "residual", "unrounded_sum", "gate_dtype", "joined", "zero_points", "library", "zero_of_any_sign"}
    for rows in TABLES:
        ops = [row.op(dtype) for row in rows for dtype in row.dtypes]
        ops = [op for op in ops if type(op) is type(ops[0])]
        fields = {field.name for field in dataclasses.fields(ops[0])} - elsewhere
        for field in fields:
            assert len({getattr(op, field) for op in ops}) > 1, field


def test_every_operator_has_a_row():
    """No operator at which a product or a library's quantiser is read is without a row; vLLM's are in custom_ops/."""
    named = {f"{row.who.split('`')[1]}.default" for row in PRODUCTS + OPAQUE_QUANTISERS if "`" in row.who}
    # The second version is read where torch has it.
    anchors = {str(target) for target in matmul.ANCHORS} | {"aten._scaled_mm_v2.default"}
    assert named == anchors | library_table.OPERATORS.keys()


def test_different_meanings_have_different_texts():
    """The report tells apart what is kept apart."""
    ops = {row.op(dtype) for rows in TABLES for row in rows for dtype in row.dtypes}
    # That of a product does not say which scale comes first, nor how b lies in memory.
    products = {op for op in ops if isinstance(op, Matmul)}
    ops -= products
    ops |= {dataclasses.replace(product, a_scale_first=False, b_is_rows=False) for product in products}
    for left, right in itertools.combinations(ops, 2):
        assert str(left) != str(right)


def test_the_page_is_current():
    assert conformance.PAGE.read_text() == conformance.page(), "python -m tests.support.conformance writes the page anew"
