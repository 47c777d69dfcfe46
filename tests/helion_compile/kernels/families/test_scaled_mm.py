# SPDX-License-Identifier: Apache-2.0
"""``scaled_mm`` without a GPU: what it means, what it refuses, and that its configs compile for one.

Letters: M tokens, N output features, K what is summed over.
"""

import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from helion_compile.configs.case import Case
from helion_compile.configs.table import ConfigTable, Gpu, Row
from helion_compile.kernels import scaled_mm
from helion_compile.kernels.families.scaled_mm_configs import FEW_TOKENS, MOST_UNPROMOTED, MULTIPROCESSORS
from helion_compile.reports.describing import config_of
from helion_compile.tune.compiling import Target
from helion_compile.tune.pool import CompilePool
from tests.support.needs import row_wise_products

E4M3, INT8 = torch.float8_e4m3fn, torch.int8
BF16, FP32 = torch.bfloat16, torch.float32
H200 = Gpu("NVIDIA H200", (9, 0))
CASE = Case(k=4096, n=6144, num_tokens=16, operands="e4m3", dtype="bf16", scales="row", fast_accum=True, library="torch")


def arguments(m=4, n=32, k=48, operands=E4M3, dtype=BF16, by_tensor=False, bias=False, fast_accum=True):
    generator = torch.Generator().manual_seed(m + n + k)
    a, w = (torch.randn(rows, k, generator=generator).mul(20).to(operands) for rows in (m, n))
    a_scale, w_scale = (torch.rand(1 if by_tensor else size, generator=generator) + 0.5 for size in (m, n))
    return a, w, a_scale, w_scale, torch.randn(n, generator=generator).to(BF16) if bias else None, dtype, fast_accum


@pytest.mark.parametrize("operands", [E4M3, INT8])
@pytest.mark.parametrize("by_tensor", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [BF16, torch.float16, FP32])
def test_the_reference_is_the_product_in_fp64_rounded_once(operands, by_tensor, bias, dtype):
    a, w, a_scale, w_scale, b, *_ = args = arguments(operands=operands, by_tensor=by_tensor, bias=bias, dtype=dtype)
    exact = (a.double() @ w.double().t()) * a_scale.double()[:, None] * w_scale.double()[None, :]
    exact = exact if b is None else exact + b.double()
    got = scaled_mm(*args)
    assert got.dtype == dtype and got.shape == (4, 32) and got.is_contiguous()
    # One rounding to dtype, and those of fp32 before it: at most 48 terms, each within the norm of the row.
    bound = torch.finfo(dtype).eps / 2 * exact.abs() + 60 * torch.finfo(FP32).eps * exact.abs().max()
    assert ((got.double() - exact).abs() <= bound).all()


@row_wise_products
def test_the_library_gives_the_reference():
    args = arguments(m=16, n=64, k=64)
    # One step of bf16 where they round to different sides; sums of up to 1.4e4 differ in some last bits of fp32.
    torch.testing.assert_close(scaled_mm.fallbacks["library"](*args), scaled_mm.reference(*args), rtol=2**-7, atol=1e-2)


@row_wise_products
def test_the_library_writes_where_it_is_told_to():
    args = arguments(m=16, n=64, k=64)
    out = torch.full((16, 64), float("nan"), dtype=BF16)
    scaled_mm.fallbacks["library"](*args, out=(out,))
    assert torch.equal(out, scaled_mm.fallbacks["library"](*args))


def test_vllm_s_product_is_called_with_its_own_shapes(monkeypatch):
    called = []

    class Operators:
        def cutlass_scaled_mm(self, out, a, b, a_scales, b_scales, bias):
            called.append((tuple(b.shape), b.stride(), tuple(a_scales.shape), tuple(b_scales.shape)))
            out.copy_(scaled_mm.reference(a, b.t(), a_scales[:, 0], b_scales[:, 0], bias, out.dtype, True))

    monkeypatch.setattr(torch.ops, "_C", Operators())
    args = (*arguments(m=4, n=32, k=48), "cutlass")
    out = torch.empty(4, 32, dtype=BF16)
    assert scaled_mm.fallbacks["library"](*args, out=(out,)) is out
    assert torch.equal(scaled_mm.fallbacks["library"](*args), out) and torch.equal(scaled_mm(*args), out)
    assert called == [((48, 32), (1, 48), (4, 1), (32, 1))] * 2


def without(position, value):
    args = list(arguments())
    args[position] = value
    return args


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (without(0, torch.zeros(4, 48)), "a is torch.float32; both operands are"),
        (without(1, torch.zeros(32, 48, dtype=INT8)), "w is torch.int8; both operands are"),
        (without(1, torch.zeros(48, 32).to(E4M3).t()), "w has strides (1, 32)"),
        (without(1, torch.zeros(32, 64).to(E4M3)), "a has rows of 48 and w of 64 elements"),
        (without(1, torch.zeros(30, 48).to(E4M3)), "the weight is 30 by 48; it takes multiples of 16"),
        (without(0, torch.zeros(4, 56).to(E4M3)[:, :48]), "a row of a begins 56 bytes after the one before"),
        (without(2, torch.ones(3)), "a_scale has 3 elements; it takes one for each of 4 rows, or one"),
        (without(3, torch.ones(32, dtype=BF16)), "w_scale is torch.bfloat16"),
        (without(3, torch.ones(1, 32)), "w_scale is torch.float32 (1, 32)"),
        (without(4, torch.ones(32, 1)), "the bias is (32, 1)"),
        (without(5, torch.float64), "the result is torch.float64"),
    ],
)
def test_what_it_refuses(args, reason):
    assert scaled_mm.check_supported(*arguments()) is None
    assert scaled_mm.check_supported(*args).startswith(reason)


def test_the_case_of_its_inputs():
    for changes in ({}, {"operands": "int8", "dtype": "fp32"}, {"scales": "tensor", "fast_accum": False}, {"num_tokens": 1}):
        case = CASE.replace(**changes)
        assert scaled_mm.case(*scaled_mm.tuning.inputs(case, torch.device("meta"))) == case


# --- configs


@pytest.mark.parametrize("tokens", [1, 2, 16, 17, 64, 65, 4096])
@pytest.mark.parametrize(("n", "k"), [(1024, 4096), (4096, 12288), (6144, 4096), (24576, 4096), (16, 16), (256, 512)])
@pytest.mark.parametrize("fast_accum", [False, True])
def test_default_configs(tokens, n, k, fast_accum):
    config = scaled_mm.configs.default(CASE.replace(num_tokens=tokens, n=n, k=k, fast_accum=fast_accum))
    if tokens > FEW_TOKENS:
        assert config == {"fallback": "library"}
        return
    block_n, block_m, split, block_k = config["block_sizes"]
    assert block_m >= min(tokens, 16) and split * block_k <= max(k, 32)
    assert (block_n + block_m) * block_k * config["num_stages"] <= 227 * 1024  # shared memory of a multiprocessor
    assert split == 1 or -(-n // block_n) * split * -(-tokens // block_m) <= 2 * MULTIPROCESSORS
    assert fast_accum or block_k <= MOST_UNPROMOTED


def test_every_token_count_has_candidates_or_the_library():
    for tokens in (1, 16, 64, 256):
        candidates = list(scaled_mm.tuning.candidates(CASE.replace(num_tokens=tokens)))
        assert 3 <= len(candidates) <= 100
    assert not list(scaled_mm.tuning.candidates(CASE.replace(num_tokens=512)))
    assert all(c["block_sizes"][3] <= MOST_UNPROMOTED for c in scaled_mm.tuning.candidates(CASE.replace(fast_accum=False)))


WON = {  # measured: docs/measurements/scaled-mm-4096-1024-h200.json, of a larger set of candidates
    2: ([64, 16, 2, 256], 6),
    16: ([64, 16, 4, 256], 4),
    32: ([64, 32, 1, 256], 6),
    64: ([64, 64, 1, 128], 8),
    128: ([64, 128, 1, 256], 4),
}


@pytest.mark.parametrize("tokens", WON)
def test_what_won_before_is_a_candidate_still(tokens):
    blocks, stages = WON[tokens]
    candidates = scaled_mm.tuning.candidates(CASE.replace(num_tokens=tokens, k=4096, n=1024))
    assert {"block_sizes": blocks, "num_warps": 4, "num_stages": stages, "prefetch": 0} in list(candidates)


def test_no_candidate_holds_more_than_its_registers():
    for tokens, n in itertools.product((1, 16, 32, 64, 128, 256), (1024, 4096, 24576)):
        for config in scaled_mm.tuning.candidates(CASE.replace(num_tokens=tokens, n=n)):
            block_n, block_m, split, _ = config["block_sizes"]
            held = block_n * block_m * (split + 1 if split > 1 else 1) // (32 * config["num_warps"])
            assert held <= 128, config


def test_a_row_of_another_product_is_never_used(tmp_path, monkeypatch):
    """They made the products of a whole model slower than the library's; the default config is the better guess."""
    rows = [Row(CASE.replace(k=4096, n=1024, num_tokens=m), {"num_warps": 4}, 5.0) for m in (1, 16)]
    table = ConfigTable("scaled_mm", default=scaled_mm.configs.default, folders=[tmp_path], nearest=scaled_mm.configs.nearest)
    table.add(rows, H200)
    assert table.pick(CASE.replace(k=4096, n=1024, num_tokens=3), H200).origin == "bucketed"
    for other in ({"n": 24576}, {"k": 12288}, {"n": 1040}):
        pick = table.pick(CASE.replace(**{"k": 4096, "n": 1024, "num_tokens": 16, **other}), H200)
        assert pick.origin == "default" and "the kernel's own default config" in pick.sentence
        assert pick.config == scaled_mm.configs.default(pick.case)
    assert scaled_mm.table.nearest == frozenset()
    monkeypatch.setattr(scaled_mm, "table", table)
    monkeypatch.setattr(Gpu, "current", staticmethod(lambda: H200))
    for n, origin in ((1024, "exact"), (1040, "default")):
        with FakeTensorMode():
            reported = config_of(scaled_mm, list(scaled_mm.tuning.inputs(CASE.replace(k=4096, n=n), torch.device("cuda"))))
        assert reported.origin == origin and f"n={n}" in str(reported)


def test_a_row_says_nothing_of_more_tokens(tmp_path):
    """At 2048 tokens the kernel that won at 64 takes several times as long as the library."""
    case = CASE.replace(library="cutlass", scales="tensor")
    configs = scaled_mm.configs
    table = ConfigTable("scaled_mm", default=configs.default, folders=[tmp_path], nearest=configs.nearest, adapt=configs.adapt)
    table.add([Row(case.replace(num_tokens=m), {"num_warps": 4}, 5.0) for m in (1, 64)], H200)
    assert table.pick(case.replace(num_tokens=33), H200).config == {"num_warps": 4}
    library = scaled_mm.configs.default(case.replace(num_tokens=2048))
    for tokens in (65, 2048):
        assert table.pick(case.replace(num_tokens=tokens), H200).config == library
        assert scaled_mm.table.pick(case.replace(n=24576, num_tokens=tokens), H200).config == library


SPLIT = {"block_sizes": [64, 16, 4, 256], "num_warps": 4, "num_stages": 3, "prefetch": 1024}
CASES = [
    (CASE, SPLIT),
    (CASE.replace(num_tokens=1), SPLIT),
    (CASE.replace(operands="int8", dtype="fp32"), SPLIT),
    (CASE.replace(scales="tensor", fast_accum=False, n=1008), {**SPLIT, "block_sizes": [64, 16, 2, 128]}),
    (CASE, {"block_sizes": [64, 16, 1, 512], "num_warps": 4, "num_stages": 3, "prefetch": 0}),
]


def test_it_compiles_for_an_h200_without_spilling(tmp_path):
    pool = CompilePool(1, ["helion_compile.kernels"], Target(90, 132), {"TRITON_CACHE_DIR": str(tmp_path)})
    try:
        for compiled in [pool.submit("scaled_mm", *each) for each in CASES]:
            done = compiled.result(timeout=300)
            assert not done.error and not done.spills
    finally:
        pool.stop()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("by_tensor", [False, True])
@pytest.mark.parametrize("fast_accum", [False, True])
def test_the_body_is_the_reference(fast_accum, by_tensor, bias, bodies):
    """Of fp8: torch multiplies no int8 as the body does on a CPU."""
    args = arguments(by_tensor=by_tensor, bias=bias, dtype=FP32, fast_accum=fast_accum)
    torch.testing.assert_close(bodies[scaled_mm](*args), scaled_mm.reference(*args), rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize(("tokens", "tile"), [(1, 16), (16, 16), (17, 32), (32, 32), (33, 64), (64, 64)])
def test_the_default_tile_is_the_smallest_that_holds_the_tokens(tokens, tile):
    assert scaled_mm.configs.default(CASE.replace(num_tokens=tokens))["block_sizes"][1] == tile
