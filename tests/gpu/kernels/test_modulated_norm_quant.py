# SPDX-License-Identifier: Apache-2.0
"""``modulated_norm_quant`` on the GPU against eager PyTorch, fp64 and Inductor."""

import pytest
import torch
import torch.nn.functional as F

from helion_compile.kernels import modulated_norm_quant
from helion_compile.kernels.device.modulate import ModulateAttrs
from helion_compile.kernels.device.normalize import NormAttrs
from helion_compile.kernels.families.modulated_norm_quant import ModulatedNormQuantArgs
from tests.support.corpus.kernel_norms import EPS
from tests.support.corpus.kernel_quantisers import QUANTISERS
from tests.support.numerics import quantised_steps, relative_error

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


def flux(x, scale, shift):
    return F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale) + shift


def wan(x, scale, shift):
    return (F.layer_norm(x.float(), x.shape[-1:], eps=EPS) * (1 + scale) + shift).type_as(x)


WRITTEN = {flux: "every_step", wan: "result"}


def call(written, quantiser, shape, dtype=BF16, *, gate, exact, keep=True):
    """Arguments for [B, T, K]."""
    batches, tokens, k = shape
    rows = FP32 if written is wan else dtype
    scale, shift, gates = torch.randn(batches, 3 * k, device="cuda").to(rows).chunk(3, -1)
    x, residual = torch.randn(2, batches * tokens, k, device="cuda").to(dtype).unbind()
    static, scale_ub, text = QUANTISERS[quantiser].arguments(dtype, QUANTISERS[quantiser].number("cuda"))
    return ModulatedNormQuantArgs(
        x=x,
        weight=None,
        bias=None,
        residual=residual if gate else None,
        gate=gates if gate else None,
        mod_scale=scale,
        mod_shift=shift,
        scale=static,
        scale_ub=scale_ub,
        eps=EPS,
        norm=NormAttrs("layer", dtype=FP32 if written is wan else None).text,
        modulation=ModulateAttrs(WRITTEN[written], dtype=dtype if written is wan else None).text,
        quantizer=text,
        exact=exact,
        keep=keep,
    )


def eager(written, quantiser, args):
    x, residual = (None if t is None else t.view(args.mod_scale.size(0), -1, t.size(-1)) for t in (args.x, args.residual))
    gate, scale, shift = (None if t is None else t[:, None] for t in (args.gate, args.mod_scale, args.mod_shift))
    total = None if gate is None else (residual + x * gate).type_as(x)
    out = written(x if total is None else total, scale, shift).flatten(0, 1)
    quantised = QUANTISERS[quantiser].results(out, QUANTISERS[quantiser].number("cuda"))
    return [*quantised, *([] if total is None else [total.flatten(0, 1)]), out]


def values(results, k):
    """What the quantised values stand for, fp64."""
    q, scale, *_ = results
    q = q.double().unflatten(1, (scale.size(1), k // scale.size(1)))
    return (q * scale.double().unsqueeze(-1)).flatten(1)


SHAPES = [(1, 257, 3072), (3, 13, 5120), (2, 33, 1000)]


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("written", WRITTEN)
def test_exact_keeps_every_step(written, shape, gate):
    args = call(written, "torchao", shape, gate=gate, exact=True)
    (q, scale, *total, out), expected = modulated_norm_quant(*args), eager(written, "torchao", args)
    if gate:
        assert torch.equal(total[0], expected[2])
    # The order of the sums moves single values of the norm by a step; the shift may cancel what is around it.
    assert (out != expected[-1]).float().mean() <= 0.01
    assert ((out.float() - expected[-1].float()).abs() <= expected[-1].float().abs().amax(-1, keepdim=True) / 128).all()
    requantised = QUANTISERS["torchao"].results(out, None)
    assert quantised_steps(q, requantised[0]).max() <= 1
    torch.testing.assert_close(scale, requantised[1], rtol=2**-7, atol=0)


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("quantiser", ["torchao", "static", "int8", "groups of 128"])
@pytest.mark.parametrize("written", WRITTEN)
def test_default_is_as_near_to_fp64_as_inductor(written, quantiser, gate):
    args = call(written, quantiser, (2, 129, 4096), gate=gate, exact=False)

    @torch.compile(backend="inductor", dynamic=False)
    def inductor(*args):
        return tuple(eager(written, quantiser, ModulatedNormQuantArgs(*args)))

    ours, theirs = modulated_norm_quant(*args), inductor(*args)
    x, residual = (None if t is None else t.double().view(2, 129, -1) for t in (args.x, args.residual))
    gates, scale, shift = (None if t is None else t.double()[:, None] for t in (args.gate, args.mod_scale, args.mod_shift))
    total = x if gates is None else x * gates + residual
    truth = (F.layer_norm(total, (4096,), eps=EPS) * (1 + scale) + shift).flatten(0, 1)
    if quantiser == "static":
        # The scale is an input; what exceeds its range is as far off in both.
        assert quantised_steps(ours[0], theirs[0]).float().mean() <= 0.01
        return
    error, their_error = (relative_error(values(results, 4096), truth) for results in (ours, theirs))
    assert error <= their_error * 1.001


@pytest.mark.parametrize("dtype", [FP16, FP32], ids=str)
def test_other_dtypes(dtype):
    args = call(flux, "torchao", (2, 33, 1024), dtype, gate=True, exact=False)
    *_, total, out = modulated_norm_quant(*args)
    *_, expected_total, expected = eager(flux, "torchao", args)
    assert out.dtype == total.dtype == dtype
    assert relative_error(total, expected_total) <= 2**-10 and relative_error(out, expected) <= 2**-9


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("tokens", [0, 1, 13, 1100])
def test_any_number_of_rows(tokens, batches):
    args = call(flux, "torchao", (batches, tokens, 3072), gate=True, exact=True)
    results, expected = modulated_norm_quant(*args), eager(flux, "torchao", args)
    assert [(t.shape, t.dtype) for t in results] == [(t.shape, t.dtype) for t in expected]
    assert torch.equal(results[2], expected[2])


def test_rows_of_a_wider_tensor():
    args = call(flux, "groups of 128", (2, 33, 1024), gate=True, exact=True)
    wide = torch.cat((args.x, args.x), -1)[:, :1024]
    for result, expected in zip(modulated_norm_quant(*args._replace(x=wide)), modulated_norm_quant(*args), strict=True):
        assert torch.equal(result.float().nan_to_num(9e9), expected.float().nan_to_num(9e9))
