# SPDX-License-Identifier: Apache-2.0
"""What is read of a report is of the types that its fields say, and nothing else."""

import dataclasses
import math

import pytest
import torch

from helion_compile import explain
from helion_compile.passes.account.refusal import Detail, Refusal, RefusalKind
from helion_compile.passes.semantics import SemanticOp
from helion_compile.reports.encoding import decode, encode
from helion_compile.reports.model import Config, GraphReport

X = torch.randn(8, 64).bfloat16()


def quantize(x):
    scale = (x.abs().amax(-1, keepdim=True) / 448.0).float()
    return (x.float() / scale).clamp(-448.0, 448.0).to(torch.float8_e4m3fn), scale


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_numbers_that_are_none(value):
    (graph,) = explain(quantize, X).graphs
    data = encode([dataclasses.replace(graph, record=dataclasses.replace(graph.record, seconds=value))])
    with pytest.raises(ValueError, match="expected a number"):
        decode(list[GraphReport], data)
    data = encode(dataclasses.replace(graph.record.sites[0].ops[0], clamp=(-math.inf, 448.0)))
    assert decode(SemanticOp, data).clamp == (-math.inf, 448.0)


def test_a_config_has_plain_values():
    deep = [[[[[[[[]]]]]]]]
    for values, sound in (({"block_sizes": [1], "pid": "flat", "x": [None, True, 2.5]}, True), ({"x": deep}, False)):
        config = Config("text", values, us=1)
        if sound:
            assert decode(Config, encode(config)) == config
        else:
            with pytest.raises(ValueError, match="nested too deeply"):
                decode(Config, encode(config))


def test_a_text_with_a_format_is_none():
    refusal = Refusal(RefusalKind.DTYPE, "node", "found {it}", "nothing", (Detail("it", "it", "it"),))
    assert decode(Refusal, encode(refusal)) == refusal
    with pytest.raises(ValueError, match="a text with a format"):
        decode(Refusal, {**encode(refusal), "found_form": "{it:>9999999999}"})
