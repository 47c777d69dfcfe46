# SPDX-License-Identifier: Apache-2.0
"""What tests of the operators of vLLM ask of a graph: what is read in it, fused, or refused."""

import torch

from helion_compile.fusions import fusions
from helion_compile.passes import FusionPass
from helion_compile.passes.match.matched_graph import match_graph
from helion_compile.passes.patterns.custom_ops.op_call import get_op_name
from helion_compile.passes.semantics import Quantize

ops = torch.ops
FP8 = torch.float8_e4m3fn
BF16 = torch.bfloat16


def only(graph, op):
    (match,) = [match for match in match_graph(graph).matches if isinstance(match.op, op)]
    return match


def reason(graph, candidate):
    (refusal,) = [refusal for refusal in match_graph(graph).refusals if refusal.candidate == candidate]
    return str(refusal)


def fused(graph, numerics="default"):
    fusion_pass = FusionPass(fusions(numerics), strict=True)
    fusion_pass(graph)
    (record,) = fusion_pass.records
    return record


def sites(graph, numerics="default"):
    """Names of the fusions that are made in a graph."""
    return [site.fusion for site in fused(graph, numerics).sites]


def calls_of(graph, operator):
    return [node for node in graph.nodes if operator in (get_op_name(node) or "")]


def expected(**facts):
    """The quantiser to fp8 that all of them are, but for these facts."""
    return Quantize(x_dtype=BF16, dtype=FP8, qmax=448.0, scale_dtype=torch.float32, clamp=(-448.0, 448.0), **facts)
