# SPDX-License-Identifier: Apache-2.0
"""``concat_activation_quant`` on the GPU against eager PyTorch, fp64 and Inductor."""

import pytest
import torch
import torch.nn.functional as F

from helion_compile.kernels import concat_activation_quant
from helion_compile.kernels.device.quantize_attrs import QuantizeAttrs
from helion_compile.kernels.families.concat_activation_quant import ConcatActivationQuantArgs
from tests.support.corpus.quantisers import torchao_row
from tests.support.numerics import fp8_steps, relative_error

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
FUNCTIONS = {"silu": F.silu, "relu": F.relu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}
SHAPES = [(257, 3072, 12288), (33, 1000, 4000), (13, 64, 64)]


def call(function, shape, dtype=BF16, *, gated, exact, keep=True):
    m, front, back = shape
    x, up = (3 * torch.randn(m, 2 * back, device="cuda")).to(dtype).chunk(2, -1)
    return ConcatActivationQuantArgs(
        front=(4 * torch.randn(m, 3 * front, device="cuda")).to(dtype)[:, front : 2 * front],
        x=x,
        up=up if gated else None,
        scale_ub=None,
        function=function,
        rounding="result" if function == "relu" else "function",
        quantizer=QuantizeAttrs(torch.float8_e4m3fn, clamp=(-448.0, 448.0), scale_dtype=dtype).text,
        exact=exact,
        keep=keep,
    )


def eager(args):
    activated = FUNCTIONS[args.function](args.x)
    row = torch.cat((args.front, activated if args.up is None else activated * args.up), -1)
    return *torchao_row(row), row


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("function", ["silu", "relu"])
def test_exact_is_eager_bit_for_bit(function, shape, gated):
    args = call(function, shape, gated=gated, exact=True)
    for result, expected in zip(concat_activation_quant(*args), eager(args), strict=True):
        assert torch.equal(result.float(), expected.float())


@pytest.mark.parametrize("dtype", [BF16, FP16, FP32], ids=str)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_default_is_as_near_to_fp64_as_inductor(function, dtype):
    args = call(function, (129, 3072, 12288), dtype, gated=function == "silu", exact=False)

    @torch.compile(backend="inductor", fullgraph=True, dynamic=False)
    def inductor(*args):
        return eager(ConcatActivationQuantArgs(*args))

    ours, theirs = concat_activation_quant(*args), inductor(*args)
    wide = {name: value.double() for name in ("front", "x", "up") if (value := getattr(args, name)) is not None}
    truth = eager(args._replace(**wide))[-1]
    error, their_error = (relative_error(q.double() * scale.double(), truth) for q, scale, _ in (ours, theirs))
    assert error <= their_error * 1.001
    assert fp8_steps(ours[0], theirs[0]).float().mean() <= 0.01


@pytest.mark.parametrize("tokens", [0, 1, 13, 4608])
def test_any_number_of_rows(tokens):
    args = call("silu", (tokens, 3072, 12288), gated=False, exact=True)
    for result, expected in zip(concat_activation_quant(*args), eager(args), strict=True):
        assert result.shape == expected.shape and torch.equal(result.float(), expected.float())


@pytest.mark.parametrize("part", ["front", "x"])
def test_a_nan_in_either_part_is_all_of_its_row(part):
    args = call("silu", (5, 3072, 12288), gated=False, exact=False)
    getattr(args, part)[3, 7] = float("nan")
    q, scale, _ = concat_activation_quant(*args)
    assert scale[3].isnan() and q[3].float().isnan().all() and not scale[:3].isnan().any()
