"""Every spelling of the table is found exactly once, with its attributes, and these say what it computes."""

import dataclasses
import itertools

import conformance
import interpret
import pytest
import torch
from capture import capture
from checks import assert_near, assert_same_bits
from conformance import argument, arguments
from spelled_activations import ACTIVATIONS
from spelled_norms import NORMS
from spelled_quantisers import QUANTISERS
from spelled_ropes import ROPES

from passes.meanings import Activation, ComplexRope, Norm, Quantize, Rope
from passes.reading import read

BF16, FP32 = torch.bfloat16, torch.float32


def only(graph):
    """The one region of a graph, in which nothing was refused."""
    reading = read(graph)
    assert not reading.refusals, reading.refusals
    (region,) = reading.regions
    return region


TABLES = NORMS, QUANTISERS, ACTIVATIONS, ROPES
CASES = [(row, dtype, False) for rows in TABLES for row in rows for dtype in row.dtypes]
CASES += [(row, row.dtypes[0], True) for rows in TABLES for row in rows]
PROMISES = {
    Norm: interpret.norm,
    Quantize: interpret.quantize,
    Activation: interpret.activation,
    Rope: interpret.rope,
    ComplexRope: interpret.rope,
}


@pytest.mark.parametrize(("row", "dtype", "dynamic"), CASES, ids=lambda value: str(value).removeprefix("torch."))
def test_read_once(row, dtype, dynamic):
    given = arguments(row, dtype)
    for tensor in given.values():
        if dynamic and tensor.dim() == len(row.sizes):
            torch._dynamo.mark_dynamic(tensor, 0)
    region = only(capture(row.function, *given.values(), dynamic=None if dynamic else False).graph)
    expected = row.meaning(dtype)
    if "residual" in given:
        expected = dataclasses.replace(expected, residual=True, unrounded_sum=str(row) == "unrounded_sum")
    assert region.meaning == expected
    assert set(region.inputs) == set(row.operands)
    assert all(node.op == "placeholder" for node in region.inputs.values())


@pytest.mark.parametrize("row", [row for row in NORMS if row.residual], ids=str)
@pytest.mark.parametrize("how", ["read elsewhere", "not read", "in place"])
def test_read_behind_an_addition(row, how):
    def program(residual, x, *others):
        total = x.add_(residual) if how == "in place" else x + residual
        out = row.function(total, *others)
        return (out, total) if how == "read elsewhere" else out

    given = arguments(row, BF16)
    residual = argument("residual", row, BF16)
    region = only(capture(program, residual, *given.values()).graph)
    assert region.meaning == dataclasses.replace(row.meaning(BF16), residual=True)
    assert set(region.inputs) == {"residual", *row.operands}
    assert len(region.outputs["sum"]) == 1


@pytest.mark.parametrize(("row", "dtype"), [(row, dtype) for row, dtype, dynamic in CASES if not dynamic], ids=str)
def test_the_attributes_say_what_is_computed(row, dtype):
    given = arguments(row, dtype)
    meaning = row.meaning(dtype)
    if "residual" in given:
        meaning = dataclasses.replace(meaning, residual=True, unrounded_sum=str(row) == "unrounded_sum")
    promised = list(PROMISES[type(meaning)](meaning, **given).values())
    if str(row) == "gated":  # the gate is no part of the norm
        promised[0] = promised[0] * torch.sigmoid(given["x"].to(FP32))
    found = row.function(*given.values())
    found = found if isinstance(found, tuple) else (found,)
    for eager, expected in zip(found, promised, strict=False):
        assert eager.dtype == expected.dtype
        if row.exact:
            assert_same_bits(eager.reshape(expected.shape), expected)
        else:
            assert_near(eager, expected)


def test_layouts_are_what_memory_has():
    """The interpretation's strides are those of the spelled scales."""
    for row in QUANTISERS:
        if row.meaning(BF16).group is None:
            continue
        given = arguments(row, BF16)
        _, spelled = row.function(*given.values())
        promised = interpret.quantize(row.meaning(BF16), **given)["scale"]
        if spelled.dim() == promised.dim() == 2:
            assert spelled.stride() == promised.stride(), row


def test_every_attribute_has_a_row_that_sets_it():
    """No field of the meanings is without a spelling that needs it."""
    # Others set these: a row behind an addition, an operator of vLLM.
    elsewhere = {"eps", "residual", "unrounded_sum", "joined"}
    for rows in TABLES:
        meanings = [row.meaning(dtype) for row in rows for dtype in row.dtypes]
        meanings = [meaning for meaning in meanings if type(meaning) is type(meanings[0])]
        fields = set(meanings[0].__dataclass_fields__) - elsewhere
        for field in fields:
            assert len({getattr(meaning, field) for meaning in meanings}) > 1, field


def test_different_meanings_have_different_texts():
    """The report tells apart what is kept apart."""
    meanings = {row.meaning(dtype) for rows in TABLES for row in rows for dtype in row.dtypes}
    for left, right in itertools.combinations(meanings, 2):
        assert str(left) != str(right)


def test_the_page_is_current():
    assert conformance.PAGE.read_text() == conformance.page(), "python tests/passes/conformance.py writes the page anew"
