# SPDX-License-Identifier: Apache-2.0
"""Tokens that lie column by column, as patches behind a convolution do: the copy before the GEMM is part of the chain.

torchao quantises them as they lie, and copies the bytes: ``quantise -> clone -> _scaled_mm``.  A norm keeps the layout, so the
blocks behind it have it too.
"""

import pytest
import torch
from torch._inductor.utils import run_and_get_code
from torch.nn.functional import rms_norm, silu

from tests.support.corpus.quantisers import torchao_row
from tests.support.fusing import E4M3, assert_bit_equal, fused, randn, refused, run
from tests.support.needs import row_wise_products

K, N = 64, 32
WEIGHT, W = randn(K, seed=1), randn(N, K, seed=2, dtype=torch.float32).to(E4M3)
PATCHES = randn(2, K, 4, 5)


def linear(x, w):
    q, scale = torchao_row(x)
    q, scale = q.reshape(-1, K).contiguous(), scale.reshape(-1, 1).contiguous()
    return torch._scaled_mm(q, w.t(), scale, torch.ones(1, N), out_dtype=torch.bfloat16).reshape(*x.shape[:-1], N)


def to_int8(x, w):
    scale = (x.abs().amax(-1, keepdim=True).float() / 127).clamp(min=1e-7)
    q = (x.float() / scale).round().clamp(-128, 127).to(torch.int8).reshape(-1, K).contiguous()
    return q.float() @ w.float().t() * scale.reshape(-1, 1)


def norm(x, weight):
    x32 = x.float()
    return weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def tokens(patches):
    return patches.flatten(2).transpose(1, 2)


def projections(patches, weight, w):
    y = norm(tokens(patches), weight)
    return linear(y, w), linear(y, w), linear(y, w)


def of_torchs_norm(patches, weight, w):
    return linear(rms_norm(tokens(patches), (K,), weight, 1e-6), w)


def behind_a_sum(patches, weight, w):
    total = tokens(patches) + 1
    total = total + (linear(norm(total, weight), w) @ torch.ones(N, K).bfloat16())
    return linear(norm(total, weight), w), total


def integers(patches, weight, w):
    return to_int8(norm(tokens(patches), weight), w)


def activated(patches, weight, w):
    x = tokens(patches)
    return linear(silu(x) * (x + 1), w)


@row_wise_products
@pytest.mark.parametrize(
    ("function", "merged"),
    [(projections, [3]), (of_torchs_norm, [1]), (behind_a_sum, [1, 1]), (integers, [1]), (activated, [1])],
)
def test_one_call_gives_the_rows_that_products_read(function, merged):
    args = PATCHES, WEIGHT, W
    results, record = run(function, *args, numerics="exact")
    assert [site.merged for site in record.sites] == merged and not record.refusals
    expected, _ = run(function, *args, only=[])
    assert_bit_equal(*map(torch.utils._pytree.tree_leaves, (results, expected)))


@row_wise_products
@pytest.mark.usefixtures("kernels_are_called")
def test_in_generated_code_no_copy_follows_and_results_lie_as_they_did():
    with torch.no_grad():
        results, (code,) = run_and_get_code(torch.compile(behind_a_sum, backend="helion"), PATCHES, WEIGHT, W)
    call = code[code.index("def call(") : code.index("runner = ")]
    assert call.count(".call(") == 2 and call.count("torch.float8_e4m3fn)") == 2, "the kernels' own bytes, and no others"
    expected = behind_a_sum(PATCHES, WEIGHT, W)
    assert [result.stride() for result in results] == [value.stride() for value in expected]


@row_wise_products
@pytest.mark.parametrize("numerics", ["default", "exact"])
def test_a_copy_that_something_else_reads_stays(numerics):
    def function(patches, weight, w):
        q, scale = torchao_row(norm(tokens(patches), weight))
        copied = q.reshape(-1, K).contiguous()
        return torch._scaled_mm(copied, w.t(), scale.reshape(-1, 1), torch.ones(1, N), out_dtype=torch.bfloat16), copied

    args = PATCHES, WEIGHT, W
    (product, copied), record = run(function, *args, numerics=numerics)
    assert fused(record) == ["norm_quant"] and not record.refusals
    if numerics == "exact":
        assert_bit_equal((product, copied), run(function, *args, only=[])[0])


def test_bytes_that_leave_as_they_lie_are_not_copied():
    def function(patches, weight):
        return torchao_row(norm(tokens(patches), weight))

    refused(function, PATCHES, WEIGHT, reason="is no view of rows; contiguous before, it fuses")


def test_what_is_looked_at_by_its_strides_keeps_them():
    def function(patches, weight, w):
        y = norm(tokens(patches), weight)
        return linear(y, w), y.as_strided((2, K, 20), (20 * K, 20, 1))

    results, record = run(function, PATCHES, WEIGHT, W, numerics="exact")
    assert fused(record) == ["quant"]
    assert torch.equal(results[1], function(PATCHES, WEIGHT, W)[1])


@row_wise_products
def test_any_number_of_tokens():
    patches = PATCHES.clone()
    torch._dynamo.mark_dynamic(patches, 2)
    results, record = run(projections, patches, WEIGHT, W, dynamic=None, numerics="exact")
    assert [site.merged for site in record.sites] == [3]
    assert_bit_equal(results, run(projections, PATCHES, WEIGHT, W, only=[])[0])
