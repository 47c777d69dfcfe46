# SPDX-License-Identifier: Apache-2.0
"""``block_scaled_mm`` without a GPU: what it means, what it refuses, and that its configs compile for one.

Letters: M tokens, N output features, K what is summed over, G its groups of 128.
"""

import itertools

import pytest
import torch

from helion_compile.configs.case import Case
from helion_compile.configs.gpu import Gpu
from helion_compile.configs.row import Row
from helion_compile.configs.table import ConfigTable
from helion_compile.kernels import block_scaled_mm
from helion_compile.kernels.families.block_scaled_mm_configs import MULTIPROCESSORS, make_config
from helion_compile.tune.compiling import Target
from helion_compile.tune.pool import CompilePool

E4M3, BF16, FP32 = torch.float8_e4m3fn, torch.bfloat16, torch.float32
CASE = Case(k=4096, n=6144, num_tokens=16, dtype="bf16", scales="block", library="torch")


def arguments(m=4, n=256, k=384, dtype=BF16, bias=False, by_column=False):
    generator = torch.Generator().manual_seed(m + n + k)
    a, w = (torch.randn(rows, k, generator=generator).to(E4M3) for rows in (m, n))
    groups = -(-k // 128)
    a_scale = torch.rand(m, groups, generator=generator) + 0.5
    w_scale = torch.rand(-(-n // 128), groups, generator=generator) + 0.5
    a_scale = a_scale.t().contiguous().t() if by_column else a_scale
    return a, w, a_scale, w_scale, torch.randn(n, generator=generator).to(BF16) if bias else None, dtype


def exact(a, w, a_scale, w_scale, bias, *_):
    """The operands with their scales in fp64, and one product of them."""
    (n, k), fp64 = w.shape, torch.float64
    a = a.to(fp64) * a_scale.to(fp64).repeat_interleave(128, 1)[:, :k]
    w = w.to(fp64) * w_scale.to(fp64).repeat_interleave(128, 0)[:n].repeat_interleave(128, 1)[:, :k]
    return a @ w.t() if bias is None else a @ w.t() + bias.to(fp64)


SHAPES = [(4, 256, 384), (1, 128, 512), (9, 144, 272), (3, 48, 80), (2, 128, 2064)]


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [BF16, torch.float16, FP32])
def test_the_reference_is_the_product_in_fp64_rounded_once(m, n, k, bias, dtype):
    args = arguments(m, n, k, bias=bias, dtype=dtype)
    got, wanted = block_scaled_mm(*args), exact(*args)
    assert got.dtype == dtype and got.shape == (m, n) and got.is_contiguous()
    bound = torch.finfo(dtype).eps / 2 * wanted.abs() + 60 * torch.finfo(FP32).eps * wanted.abs().max()
    assert ((got.double() - wanted).abs() <= bound).all()


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
@pytest.mark.parametrize("by_column", [False, True])
def test_the_body_is_the_reference(m, n, k, by_column, bodies):
    args = arguments(m, n, k, bias=m == 4, dtype=FP32, by_column=by_column)
    torch.testing.assert_close(bodies[block_scaled_mm](*args), block_scaled_mm.reference(*args), rtol=1e-5, atol=1e-3)


def test_a_scale_of_another_group_or_block_is_another_result():
    """Each element of both scales reaches its own 128 columns and rows, and no other."""
    args = arguments(2, 256, 384, dtype=FP32)
    plain = block_scaled_mm(*args)
    for row, group in itertools.product(range(2), range(3)):
        for position, rows in ((2, (slice(row, row + 1), slice(None))), (3, (slice(None), slice(row * 128, row * 128 + 128)))):
            changed = list(args)
            changed[position] = args[position].clone()
            changed[position][row, group] *= 2
            got = block_scaled_mm(*changed)
            differs = got != plain
            assert differs[rows].float().mean() > 0.9 and differs.sum() == differs[rows].sum()
            torch.testing.assert_close(got.double(), exact(*changed), rtol=1e-5, atol=1e-3)


def without(position, value):
    args = list(arguments())
    args[position] = value
    return args


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (without(0, torch.zeros(4, 384)), "a is torch.float32; both operands are"),
        (without(1, torch.zeros(256, 384, dtype=torch.int8)), "w is torch.int8; both operands are"),
        (without(1, torch.zeros(384, 256).to(E4M3).t()), "w has strides (1, 256)"),
        (without(1, torch.zeros(256, 256).to(E4M3)), "a has rows of 384 and w of 256 elements"),
        (without(1, torch.zeros(250, 384).to(E4M3)), "the weight is 250 by 384; it takes multiples of 16"),
        (without(0, torch.zeros(4, 392).to(E4M3)[:, :384]), "a row of a begins 392 bytes after the one before"),
        (without(2, torch.ones(4)), "a_scale is (4,); it takes [4, 3], one scale a group of 128"),
        (without(2, torch.ones(4, 6)), "a_scale is (4, 6); it takes [4, 3]"),
        (without(2, torch.ones(4, 1, dtype=torch.int32)), "a_scale is torch.int32; it takes torch.float32"),
        (without(3, torch.ones(3, 2)), "w_scale is (3, 2); it takes [2, 3]"),
        (without(3, torch.ones(2, 3, dtype=BF16)), "w_scale is torch.bfloat16"),
        (without(4, torch.ones(256, 1)), "the bias is (256, 1)"),
        (without(5, torch.float64), "the result is torch.float64"),
        ([*arguments(), "nobody"], "the library is 'nobody'; it is one of"),
    ],
)
def test_what_it_refuses(args, reason):
    assert block_scaled_mm.check_supported(*arguments()) is None
    assert block_scaled_mm.check_supported(*args).startswith(reason)


def test_the_case_of_its_inputs():
    for changes in ({}, {"dtype": "fp32"}, {"n": 1040, "k": 272}, {"num_tokens": 1}, {"library": "triton"}):
        case = CASE.replace(**changes)
        args = block_scaled_mm.tuning.inputs(case, torch.device("meta"))
        assert block_scaled_mm.case(*args) == case and block_scaled_mm.check_supported(*args) is None


# --- configs


def test_without_a_table_the_kernel_multiplies_few_tokens_and_the_library_more():
    assert block_scaled_mm.configs.default(CASE.replace(num_tokens=17)) == {"fallback": "library"}
    for n, split in ((1024, 8), (4096, 4), (6144, 2), (24576, 1)):
        assert block_scaled_mm.configs.default(CASE.replace(n=n))["block_sizes"] == [64, 16, split]
    assert block_scaled_mm.configs.default(CASE.replace(n=64, k=512))["block_sizes"] == [64, 16, 1]


def test_a_row_says_nothing_of_more_tokens(tmp_path):
    """The tuner tries the kernel for up to 64 tokens; the library is far ahead at 2048."""
    gpu, configs = Gpu("NVIDIA H200", (9, 0)), block_scaled_mm.configs
    table = ConfigTable(
        "block_scaled_mm", default=configs.default, folders=[tmp_path], nearest=configs.nearest, adapt=configs.adapt
    )
    table.add([Row(CASE.replace(num_tokens=m), {"num_warps": 4}, 5.0) for m in (1, 64)], gpu)
    assert table.pick(CASE.replace(num_tokens=33), gpu).config == {"num_warps": 4}
    for tokens in (65, 2048):
        assert table.pick(CASE.replace(num_tokens=tokens), gpu).config == {"fallback": "library"}


def test_every_token_count_has_candidates_or_the_library():
    for tokens, n in itertools.product((1, 16, 33, 64), (4096, 6144, 24576)):
        candidates = list(block_scaled_mm.tuning.candidates(CASE.replace(num_tokens=tokens, n=n)))
        assert 3 <= len(candidates) <= 100
        for config in candidates:
            block_n, block_m, split = config["block_sizes"]
            # A tile lies within a block of the weight's scales, and all programs run at once.
            assert block_n in (64, 128) and split <= 32
            assert (block_n + block_m) * 512 * config["num_stages"] <= 227 * 1024
            assert split == 1 or -(-n // block_n) * split * -(-tokens // block_m) <= 4.2 * MULTIPROCESSORS
    assert not list(block_scaled_mm.tuning.candidates(CASE.replace(num_tokens=128)))


CASES = [
    (CASE, {**make_config(64, 16, 4, warps=4, stages=2), "prefetch": 1024}),
    (CASE.replace(num_tokens=1), make_config(64, 16, 1, warps=4, stages=3)),
    (CASE.replace(num_tokens=64), make_config(64, 64, 1, warps=8, stages=3)),
    (CASE.replace(n=1040, k=4112, num_tokens=33, dtype="fp32"), make_config(64, 16, 4, warps=4, stages=2)),
]


def test_it_compiles_for_an_h200_without_spilling(tmp_path):
    pool = CompilePool(1, ["helion_compile.kernels"], Target(90, 132), {"TRITON_CACHE_DIR": str(tmp_path)})
    try:
        for compiled in [pool.submit("block_scaled_mm", *each) for each in CASES]:
            done = compiled.result(timeout=300)
            assert not done.error and not done.spills
    finally:
        pool.stop()
