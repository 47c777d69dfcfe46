# SPDX-License-Identifier: Apache-2.0
"""Attributes as text: read back as they were written, equal where they are equal."""

import typing

import pytest
import torch

from helion_compile.kernels.device.activation import FUNCTIONS, ROUNDINGS
from helion_compile.kernels.device.attribute_text import dtype_named, word_of
from helion_compile.kernels.device.normalize import NormAttrs
from helion_compile.kernels.device.quantize_attrs import QuantizeAttrs
from helion_compile.kernels.device.rope import PAIRS
from helion_compile.passes.semantics import (
    ActivationFunction,
    ActivationRounding,
    NormKind,
    NormRoot,
    RopePairs,
    ScaleDivision,
    ScaleLayout,
    ScaleUse,
)


def test_what_has_its_default_is_not_written():
    attrs = QuantizeAttrs(torch.int8, amax_floor=1e-6, clamp=(-448.0, 448.0), scale_dtype=torch.bfloat16, ue8m0=True)
    assert attrs.text == "int8 clamp=-448:448 scale_dtype=bfloat16 amax_floor=1e-06 ue8m0"
    assert QuantizeAttrs(torch.int8, qmax=127.0, scale_dtype=torch.float32).text == "int8"
    assert NormAttrs(residual_multiplier=1, weight_offset=0).text == "rms"


@pytest.mark.parametrize("value", [1 / 3, 1 / (448.0 * 512.0), 1e-12, 127.5, 0.22])
def test_numbers_keep_every_bit(value):
    assert QuantizeAttrs.parse(QuantizeAttrs(torch.int8, scale_floor=value).text).scale_floor == value
    assert NormAttrs.parse(NormAttrs(residual_multiplier=value).text).residual_multiplier == value


def test_every_attribute_is_read_back():
    given = {
        "qmax": 240.0,
        "clamp": (-240.0, 240.0),
        "use": "multiply_factor",
        "scale_dtype": torch.bfloat16,
        "division": "tensor",
        "amax_ceiling": 6.0,
        "amax_floor": 1e-12,
        "scale_floor": 1e-5,
        "group": 128,
        "ue8m0": True,
        "layout": "tma_aligned",
        "zero_point": False,
    }
    how = QuantizeAttrs.parse(QuantizeAttrs(torch.float8_e4m3fn, **given).text)
    assert {name: getattr(how, name) for name in given} == given
    assert how.dtype == torch.float8_e4m3fn
    given = {
        "cast_then_scale": True,
        "dtype": torch.float32,
        "root": "sqrt",
        "factor_dtype": torch.bfloat16,
        "weight_offset": 1.0,
        "residual_multiplier": 0.22,
        "unrounded_sum": True,
    }
    how = NormAttrs.parse(NormAttrs("layer", **given).text)
    assert {name: getattr(how, name) for name in given} == given
    assert how.kind == "layer"


def test_unknown_words_are_errors():
    with pytest.raises(ValueError, match="'rms colour=red' has 'colour=red'"):
        NormAttrs.parse("rms colour=red")
    with pytest.raises(ValueError, match="'float7' is no dtype"):
        dtype_named("float7")


@pytest.mark.parametrize(
    ("attributes", "field", "members"),
    [
        (NormAttrs, "kind", NormKind),
        (NormAttrs, "root", NormRoot),
        (QuantizeAttrs, "division", ScaleDivision),
        (QuantizeAttrs, "layout", ScaleLayout),
        # The fusion takes the quotient for the inverse of the factor, in default numerics.
        (QuantizeAttrs, "use", set(ScaleUse) - {ScaleUse.MULTIPLY_QUOTIENT}),
    ],
)
def test_there_is_a_word_for_each_member_of_a_semantic_ops_enumeration(attributes, field, members):
    assert set(typing.get_args(typing.get_type_hints(attributes)[field])) == set(map(word_of, members))


def test_activations_and_pairs_are_the_semantic_ops():
    assert {*FUNCTIONS, "gelu_divided", "gelu_tanh_factored"} == set(map(word_of, ActivationFunction))
    assert set(ROUNDINGS) == set(map(word_of, ActivationRounding))
    assert set(PAIRS) == set(map(word_of, RopePairs))
