# SPDX-License-Identifier: Apache-2.0
"""``block_scaled_mm`` on the GPU: against fp64 and the reference, with every split, and what it leaves behind.

Letters: M tokens, N output features, K what is summed over.
"""

import ctypes

import pytest
import torch

from helion_compile.kernels import block_scaled_mm
from helion_compile.kernels.families.block_scaled_mm_configs import make_config
from helion_compile.runtime import record, zeroed_workspace
from helion_compile.runtime.call_target import make_host_function

E4M3, BF16, FP32 = torch.float8_e4m3fn, torch.bfloat16, torch.float32


def arguments(m, n, k, dtype=BF16, bias=False, by_column=True, library="torch"):
    a, w = (torch.randn(rows, k, device="cuda").to(E4M3) for rows in (m, n))
    groups = -(-k // 128)
    a_scale = torch.rand(m, groups, device="cuda") + 0.5
    w_scale = torch.rand(-(-n // 128), groups, device="cuda") + 0.5
    a_scale = a_scale.t().contiguous().t() if by_column else a_scale
    return a, w, a_scale, w_scale, torch.randn(n, device="cuda").to(BF16) if bias else None, dtype, library


def exact(a, w, a_scale, w_scale, bias, *_):
    (n, k), fp64 = w.shape, torch.float64
    a = a.to(fp64) * a_scale.to(fp64).repeat_interleave(128, 1)[:, :k]
    w = w.to(fp64) * w_scale.to(fp64).repeat_interleave(128, 0)[:n].repeat_interleave(128, 1)[:, :k]
    return a @ w.t() if bias is None else a @ w.t() + bias.to(fp64)


def error(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


def with_config(config, args):
    """The kernel's result with this config, through a plan, as a table would make it."""
    made = record.record_plan(make_host_function(block_scaled_mm, args, config), args, zeroed_workspace=True)
    outputs = [torch.full(b.shape, float("nan"), dtype=b.dtype, device="cuda") for b in made.outputs]
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor)] + outputs
    made.launch(*(tensor.data_ptr() for tensor in tensors))
    return outputs[0]


def tiles(split, block_m=16, warps=4, stages=2):
    return make_config(64, block_m, split, warps=warps, stages=stages)


@pytest.mark.parametrize("split", [1, 2, 4, 8])
@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1024, 4096), (3, 1008, 1040), (16, 4096, 4096), (33, 528, 2064), (64, 64, 512)])
def test_as_near_fp64_as_the_rounding_of_the_result(split, by_column, m, n, k):
    args = arguments(m, n, k, by_column=by_column)
    got = with_config(tiles(split, 16 if m <= 16 else 32), args)
    assert error(got, exact(*args)) <= 1.1 * error(block_scaled_mm.reference(*args), exact(*args)) + 2e-4


@pytest.mark.parametrize("m", [4, 16, 64])
def test_no_farther_from_fp64_than_the_library(m):
    args = arguments(m, 4096, 4096)
    try:
        library = block_scaled_mm.fallbacks["library"](*args)
    except RuntimeError as failed:
        pytest.skip(f"this torch and cuBLAS multiply no such blocks: {str(failed)[:80]}")
    got = with_config(tiles(2, 16 if m <= 16 else 32), args)
    assert error(got, exact(*args)) <= 1.1 * error(library, exact(*args)) + 2e-4


@pytest.mark.parametrize("split", [1, 4])
@pytest.mark.parametrize("dtype", [BF16, torch.float16, FP32])
@pytest.mark.parametrize("bias", [False, True])
def test_biases_and_dtypes(split, dtype, bias):
    args = arguments(16, 512, 2048, dtype=dtype, bias=bias)
    assert error(with_config(tiles(split), args), exact(*args)) < (3e-3 if dtype == BF16 else 1e-3)


@pytest.mark.parametrize(("block_n", "block_m", "warps"), [(64, 8, 4), (128, 16, 4), (128, 32, 8), (64, 64, 8)])
def test_other_tiles(block_n, block_m, warps):
    args = arguments(50, 1040, 1552)
    got = with_config(make_config(block_n, block_m, 1, warps=warps, stages=2), args)
    assert error(got, exact(*args)) < 3e-3


def test_each_scale_reaches_its_own_group_and_block():
    args = arguments(2, 256, 1024, dtype=FP32)
    for position in (2, 3):
        for row in range(2):
            for group in range(8):
                changed = [*args]
                changed[position] = args[position].clone()
                changed[position][row, group] *= 8
                assert error(with_config(tiles(2), tuple(changed)), exact(*changed)) < 1e-3


@pytest.mark.parametrize("split", [2, 8])
def test_equal_inputs_give_equal_bits_and_the_memory_between_stays_zero(split):
    args = arguments(16, 4096, 4096)
    first = with_config(tiles(split), args)
    for _ in range(100):
        assert torch.equal(with_config(tiles(split), args), first)
    torch.cuda.synchronize()
    assert zeroed_workspace._blocks
    for address, size in zeroed_workspace._blocks.values():
        memory = (ctypes.c_ubyte * size)()
        zeroed_workspace._ask("cuMemcpyDtoH_v2", memory, ctypes.c_uint64(address), ctypes.c_size_t(size))
        assert bytes(memory).count(0) == size


def test_special_values_reach_the_result():
    args = arguments(16, 512, 1024)
    args[0].view(torch.uint8)[3, 100] = 0x7F  # NaN
    args[2][7, 2] = float("inf")
    args[1].view(torch.uint8)[5].zero_()
    for split in (1, 2):
        got = with_config(tiles(split), args)
        assert got[3].isnan().all() and got[[0, 15]].isfinite().all()
        assert not got[7].isfinite().any()
        assert (got[[0, 15], 5] == 0).all()


def test_what_lies_behind_ragged_rows_is_not_read():
    """Rows of 1040 bytes in memory of 1536: what follows each row is NaN."""
    a, w, *others = arguments(16, 528, 1040)
    wide = [torch.full((rows.size(0), 1536), 0x7F, dtype=torch.uint8, device="cuda").view(E4M3) for rows in (a, w)]
    for memory, rows in zip(wide, (a, w), strict=True):
        memory.view(torch.uint8)[:, :1040] = rows.view(torch.uint8)
    views = [memory[:, :1040] for memory in wide]
    assert torch.equal(with_config(tiles(2), (*views, *others)), with_config(tiles(2), (a, w, *others)))
