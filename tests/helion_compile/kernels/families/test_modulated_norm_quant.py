# SPDX-License-Identifier: Apache-2.0
"""``modulated_norm_quant`` on a CPU: its body and its reference against adaptive norms of diffusion transformers."""

import pytest
import torch
import torch.nn.functional as F

from helion_compile.configs.case import Case
from helion_compile.kernels import modulated_norm_quant
from helion_compile.kernels.device.modulate import ModulateAttrs
from helion_compile.kernels.device.normalize import NormAttrs
from helion_compile.kernels.families.modulated_norm_quant import ModulatedNormQuantArgs
from tests.support.corpus.kernel_norms import EPS
from tests.support.corpus.kernel_quantisers import QUANTISERS
from tests.support.numerics import quantised_steps, relative_error
from tests.support.pairwise import pairwise

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
B, T, K = 3, 13, 256


def name_of(value):
    """For the ids of tests, which must be the same in every process."""
    return getattr(value, "__name__", str(value))


def randn(*shape, dtype=BF16, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def flux(x, weight, scale, shift):
    """Every step rounded to x's dtype."""
    return F.layer_norm(x, (K,), weight, eps=EPS) * (1 + scale) + shift


def wan(x, weight, scale, shift):
    """In fp32 with one cast, scale and shift too."""
    weight = None if weight is None else weight.float()
    return (F.layer_norm(x.float(), (K,), weight, eps=EPS) * (1 + scale) + shift).type_as(x)


def z_image(x, weight, scale, shift):
    """A weighted RMSNorm with a scale alone."""
    x32 = x.float()
    normed = (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + EPS) * weight).type_as(x)
    return normed * (1 + scale)


WRITTEN = {flux: ("layer", "every_step"), wan: ("layer", "result"), z_image: ("rms", "every_step")}


def call(written, quantiser, dtype=BF16, *, batches=B, gate=True, exact=True, keep=True):
    """The kernel's arguments."""
    kind, rounding = WRITTEN[written]
    rows = FP32 if written is wan else dtype
    scale, shift, gates = randn(batches, 3 * K, dtype=rows, seed=2).chunk(3, -1)
    static, scale_ub, text = QUANTISERS[quantiser].arguments(dtype, QUANTISERS[quantiser].number("cpu"))
    return ModulatedNormQuantArgs(
        x=randn(batches * T, K, dtype=dtype),
        weight=(1 + 0.1 * randn(K, seed=3).float()).to(dtype) if written is z_image else None,
        bias=None,
        residual=randn(batches * T, K, dtype=dtype, seed=1) if gate else None,
        gate=gates if gate else None,
        mod_scale=scale,
        mod_shift=None if written is z_image else shift,
        scale=static,
        scale_ub=scale_ub,
        eps=EPS,
        norm=NormAttrs(kind, dtype=FP32 if written is wan else None).text,
        modulation=ModulateAttrs(rounding, dtype=dtype if written is wan else None).text,
        quantizer=text,
        exact=exact,
        keep=keep,
    )


def eager(written, quantiser, args):
    batches = args.mod_scale.size(0)
    x, residual = (None if rows is None else rows.view(batches, -1, K) for rows in (args.x, args.residual))
    gate, scale, shift = (None if r is None else r[:, None] for r in (args.gate, args.mod_scale, args.mod_shift))
    total = None if gate is None else (residual + x * gate).type_as(x)
    out = written(x if total is None else total, args.weight, scale, shift).flatten(0, 1)
    quantised = QUANTISERS[quantiser].results(out, QUANTISERS[quantiser].number("cpu"))
    return [*quantised, *([] if total is None else [total.flatten(0, 1)]), out]


@pytest.mark.parametrize(
    ("written", "dtype", "gate", "batches"), pairwise(WRITTEN, (BF16, FP16, FP32), (True, False), (1, B)), ids=name_of
)
def test_the_exact_reference_is_eager(written, dtype, gate, batches):
    """Up to the order in which torch's own LayerNorm sums, which moves single values by a step."""
    args = call(written, "vllm", dtype, gate=gate, batches=batches)
    got, expected = modulated_norm_quant.reference(*args), eager(written, "vllm", args)
    for result, value in zip(got, expected, strict=True):
        assert (result.dtype, result.shape) == (value.dtype, value.shape)
        if written is z_image or result.dtype.itemsize == 1:
            assert (result.float() != value.float()).float().mean() <= (0 if written is z_image else 0.001)
        else:
            torch.testing.assert_close(result, value, rtol=2**-7, atol=2**-7)
    if gate:
        assert torch.equal(got[2], expected[2])


@pytest.mark.parametrize(
    ("written", "quantiser", "exact", "gate", "batches"),
    pairwise(WRITTEN, ("torchao", "static", "int8", "groups of 64, column-major"), (True, False), (True, False), (1, B)),
    ids=name_of,
)
def test_the_body_is_the_reference(written, quantiser, exact, gate, batches, bodies):
    args = call(written, quantiser, exact=exact, gate=gate, batches=batches)
    got, expected = list(bodies[modulated_norm_quant](*args)), list(modulated_norm_quant.reference(*args))
    for result, value in zip(got, expected, strict=True):
        assert (result.dtype, result.shape, result.stride()) == (value.dtype, value.shape, value.stride())
        if result.dtype.itemsize == 1:
            # What is left where scale and shift cancel has lost digits: a step of the row's largest value besides.
            near = (result.float() - value.float()).abs() <= value.float().abs().amax() / 256
            assert (near | (quantised_steps(result, value) <= 1)).all()
        else:
            assert relative_error(result, value) <= 4 * torch.finfo(result.dtype).eps + 2**-9


def test_a_residual_without_a_gate(bodies):
    args = call(flux, "torchao")._replace(gate=None)
    got, expected = bodies[modulated_norm_quant](*args), modulated_norm_quant.reference(*args)
    assert torch.equal(got[2], expected[2]) and torch.equal(got[2], args.x + args.residual)
    assert relative_error(got[3], expected[3]) <= 2**-8


def test_the_bytes_alone_are_one_result(bodies):
    args = call(flux, "static", gate=False, keep=False)
    assert quantised_steps(bodies[modulated_norm_quant](*args), modulated_norm_quant.reference(*args)).max() <= 1


@pytest.mark.parametrize("written", WRITTEN)
def test_default_rounds_once(written):
    args = call(written, "torchao", exact=False)
    *_, got = modulated_norm_quant.reference(*args)
    x, residual = (rows.double().view(B, T, K) for rows in (args.x, args.residual))
    gate, scale, shift = (None if r is None else r.double()[:, None] for r in (args.gate, args.mod_scale, args.mod_shift))
    value = x * gate + residual
    if written is not z_image:
        value = value - value.mean(-1, keepdim=True)
    value = value * torch.rsqrt(value.pow(2).mean(-1, keepdim=True) + EPS)
    value = value * (1 if args.weight is None else args.weight.double()) * (1 + scale) + (0 if shift is None else shift)
    truth = value.flatten(0, 1)
    assert relative_error(got, truth) <= 1.01 * relative_error(truth.to(got.dtype), truth) + 1e-6


def test_what_the_kernel_does_not_take():
    args = call(flux, "torchao")

    def reason(**changed):
        return modulated_norm_quant.check_supported(*args._replace(**changed))

    assert reason() is None
    assert "mod_shift has 1 rows and mod_scale has 3" in reason(mod_shift=args.mod_shift[:1])
    assert "gate has 1 rows and mod_scale has 3" in reason(gate=args.gate[:1])
    assert "38 rows are no whole number of rows for each of 3 batches" in reason(x=args.x[:38], residual=args.residual[:38])
    assert "there is a gate and no residual" in reason(residual=None)
    assert "residual is torch.float32" in reason(residual=args.residual.float())
    assert "the modulation's rounding is 'twice'" in reason(modulation="twice")
    assert "mod_scale is float64" in reason(mod_scale=args.mod_scale.double())


def test_a_program_takes_more_rows_where_there_are_many():
    def block(tokens):
        case = Case(hidden_size=3072, num_tokens=tokens, dtype=BF16, kind="layer", residual=False)
        return modulated_norm_quant.configs.default(case)["block_sizes"]

    assert [block(tokens) for tokens in (1, 1024, 4096, 32760)] == [[1, 1], [1, 1], [4, 1], [16, 1]]
