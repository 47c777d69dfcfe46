# SPDX-License-Identifier: Apache-2.0
"""passes.match.chain: which matches feed one another."""

import torch

from helion_compile.passes.match.chain import Chain, find_chains
from helion_compile.passes.match.matched_graph import match_graph
from helion_compile.passes.semantics import Matmul, Quantize
from tests.support import programs
from tests.support.capture import capture
from tests.support.corpus import quantisers

X, Y = programs.tensor(16, 64), programs.tensor(16, 64, seed=1)


def quantize_and_multiply(x, *weights):
    return programs.matmul(*quantisers.torchao_row(x), *weights)


def chains(program, *args):
    return list(find_chains(match_graph(capture(program, *args).graph), (Quantize, Matmul), used=()))


def test_a_matmul_with_the_scale_of_another_quantiser_is_in_no_chain():
    def program(x, y, b, b_scale):
        (q, scale), (_, other) = quantisers.torchao_row(x), quantisers.torchao_row(y)
        return programs.matmul(q, other, b, b_scale), scale

    assert not chains(program, X, Y, *programs.weights())
    assert len(chains(quantize_and_multiply, X, *programs.weights())) == 1


def test_what_stays_keeps_what_it_reads():
    """The half that others read stays, and with it the cast that it is cut from, in whichever order they were taken."""

    def program(x, cos, sin):
        x32 = x.float()
        first, second = x32[..., :32], x32[..., 32:]
        return (x32 * cos + torch.cat([-second, first], -1) * sin).to(x.dtype), first.exp()

    x = programs.tensor(2, 5, 4, 64)
    cos, sin = (programs.tensor(2, 5, 1, 64, seed=seed).float() for seed in (1, 2))
    matched = match_graph(capture(program, x, cos, sin).graph)
    assert not matched.refusals
    (match,) = matched.matches
    chain = Chain([match], matched)
    for node in chain.nodes:
        outputs = {copy for copies in match.outputs.values() for copy in copies}
        assert node in outputs or all(user in chain.nodes for user in node.users), node
