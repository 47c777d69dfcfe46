# SPDX-License-Identifier: Apache-2.0
"""What default numerics promise of a chain whose inputs something else computes: Inductor's nearness, given these inputs.

See docs/numerics.md.  What comes from a kernel of Inductor's is rounded on its way through memory; Inductor alone may keep it
in fp32 in one kernel.
"""

import pytest
import torch
from torch.nn.functional import silu

from tests.support.corpus.quantisers import torchao_row, without_clamp
from tests.support.fusing import fused, randn, run
from tests.support.needs import ROUNDS_BEFORE_WIDENING
from tests.support.numerics import fp8_steps, relative_error

K = 256


def norm(x, weight):
    x32 = x.float()
    return weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def activated(x):
    return without_clamp(silu(x))


def quantised_sum(x, other):
    total = x + other
    return *activated(total), total


def two_quantisers(x, other):
    y = norm(x, other[0])
    return *torchao_row(y), *without_clamp(y), y


# The function, which returns its last chain's results and input, its fusions, and that chain by itself.
CASES = {
    "activation": (quantised_sum, ["activation_quant"], activated),
    "second quantiser": (two_quantisers, ["norm_quant", "quant"], without_clamp),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_given_its_inputs_a_chain_is_as_near_to_fp64_as_inductors_code_of_it(case, dtype):
    if case == "activation" and not ROUNDS_BEFORE_WIDENING:
        pytest.skip("in this torch's graph the activation gives fp32, of which the fusion is refused")
    function, fusions, chain = CASES[case]
    x, other = randn(64, K, dtype=dtype), randn(64, K, seed=1, dtype=dtype)
    (*ours, inputs), record = run(function, x, other)
    assert fused(record) == fusions
    theirs = torch.compile(chain, backend="inductor", fullgraph=True)(inputs)
    magnitudes = (silu(inputs.double()) if case == "activation" else inputs.double()).abs().amax(-1, keepdim=True)
    truth = magnitudes.clamp(min=1e-12) / 448
    assert relative_error(ours[-1], truth) <= relative_error(theirs[-1], truth) + 2**-23
    assert fp8_steps(ours[-2], theirs[-2]).max() <= 1


def test_an_input_that_overflows_is_infinite_as_in_eager():
    x = torch.full((4, K), 60000.0, dtype=torch.float16)
    _, scale, _ = run(quantised_sum, x, x)[0]
    assert scale.isinf().all() and quantised_sum(x, x)[1].isinf().all()
