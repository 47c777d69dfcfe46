# SPDX-License-Identifier: Apache-2.0
"""``concat_activation_quant`` on a CPU: its body as plain torch, what it refuses, what its default config compiles to."""

import pytest
import torch
import torch.nn.functional as F

from helion_compile.kernels import concat_activation_quant
from helion_compile.kernels.device.quantize_attrs import QuantizeAttrs
from helion_compile.kernels.families.concat_activation_quant import ConcatActivationQuantArgs
from helion_compile.tune.compiling import Target
from helion_compile.tune.pool import CompilePool
from tests.support.corpus.kernel_quantisers import QUANTISERS
from tests.support.numerics import quantised_steps, relative_error
from tests.support.pairwise import pairwise

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
M, FRONT, BACK = 13, 96, 256
PER_ROW = ["torchao", "bounded", "e5m2", "factor", "factor inverse", "int8"]


def call(quantiser="torchao", function="gelu_tanh", dtype=BF16, *, gated=False, exact=False, keep=True):
    torch.manual_seed(0)
    both = (3 * torch.randn(M, 2 * BACK)).to(dtype)
    _, scale_ub, text = QUANTISERS[quantiser].arguments(dtype, QUANTISERS[quantiser].number("cpu"))
    return ConcatActivationQuantArgs(
        front=(4 * torch.randn(M, 2 * FRONT)).to(dtype)[:, :FRONT],
        x=both[:, :BACK],
        up=both[:, BACK:] if gated else None,
        scale_ub=scale_ub,
        function=function,
        rounding="function",
        quantizer=text,
        exact=exact,
        keep=keep,
    )


@pytest.mark.parametrize(
    ("quantiser", "function", "dtype", "gated", "exact"),
    pairwise(PER_ROW, ("silu", "relu"), (BF16, FP16, FP32), (False, True), (False, True)),
    ids=str,
)
def test_the_body_computes_the_reference(bodies, quantiser, function, dtype, gated, exact):
    args = call(quantiser, function, dtype, gated=gated, exact=exact)
    assert concat_activation_quant.check_supported(*args) is None
    got, expected = bodies[concat_activation_quant](*args), concat_activation_quant.reference(*args)
    for result, value in zip(got, expected, strict=True):
        assert (result.dtype, result.shape, result.stride()) == (value.dtype, value.shape, value.stride())
    assert quantised_steps(got[0], expected[0]).max() <= 1
    torch.testing.assert_close(got[1], expected[1], rtol=2**-7, atol=0)
    assert torch.equal(got[2][:, :FRONT], args.front) and relative_error(got[2], expected[2]) <= 2**-9


def test_gelu(bodies):
    """Whose values far below zero are small in the kernel, and lost in what ``1 + tanh`` leaves of them."""
    got, expected = (run(*call()) for run in (bodies[concat_activation_quant], concat_activation_quant.reference))
    assert relative_error(got[2], expected[2]) <= 2**-9 and quantised_steps(got[0], expected[0]).max() <= 1


@pytest.mark.parametrize("largest", ["front", "x"])
def test_either_part_may_hold_the_largest_magnitude_or_a_nan(bodies, largest):
    args = call(function="relu", keep=False)
    getattr(args, largest)[3, 5], getattr(args, largest)[4, 5] = 1000.0, float("nan")
    q, scale = bodies[concat_activation_quant](*args)
    assert scale[3] == 1000 / 448 and scale[4].isnan() and q[4].float().isnan().all()
    assert not scale[:3].isnan().any()


def test_the_reference_is_torch():
    args = call(function="silu", gated=True, exact=True)
    row = torch.cat((args.front, F.silu(args.x) * args.up), -1)
    expected = [*QUANTISERS["torchao"].results(row, None), row]
    for result, value in zip(concat_activation_quant.reference(*args), expected, strict=True):
        assert torch.equal(result.float(), value.float())


def test_what_the_kernel_does_not_take():
    args = call()

    def reason(**changed):
        return concat_activation_quant.check_supported(*args._replace(**changed))

    assert reason() is None
    assert "front is torch.float32 (13, 96) and x is torch.bfloat16 (13, 256)" in reason(front=args.front.float())
    assert "as many rows" in reason(front=args.front[:3])
    assert "the quantiser has a scale for each 32 elements" in reason(
        quantizer=QuantizeAttrs(torch.float8_e4m3fn, clamp=(-448.0, 448.0), group=32).text
    )
    assert "a zero point" in reason(quantizer=QUANTISERS["int8 asymmetric"].text(BF16))
    assert "up is torch.float32" in reason(up=args.x.float())
    assert "the last dimension of front is not contiguous" in reason(front=args.front.t().contiguous().t())
    assert "is none of" in reason(function="swish")


@pytest.mark.parametrize("fields", concat_activation_quant.tuning.usual, ids=str)
def test_its_default_config_holds_both_parts_in_registers(tmp_path, fields):
    from helion_compile.configs.case import Case

    pool = CompilePool(1, ("helion_compile.kernels",), Target(90, 132), {"TRITON_CACHE_DIR": str(tmp_path)})
    try:
        case = Case(**fields, num_tokens=4096, dtype=BF16)
        config = concat_activation_quant.configs.default(case)
        compiled = pool.submit("concat_activation_quant", case, config).result(timeout=250)
        assert not compiled.error and compiled.spills == 0 and "for roffset" not in compiled.source
    finally:
        pool.stop()
