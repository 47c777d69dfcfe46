# SPDX-License-Identifier: Apache-2.0
"""Norms as real models write them, each with what it is to be read as: rows of the conformance table."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from helion_compile.passes.semantics import Norm, NormKind, NormRoot, NormRounding
from tests.support.conformance import Written

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
CAST_THEN_SCALE, SCALE_THEN_CAST = NormRounding.CAST_THEN_SCALE, NormRounding.SCALE_THEN_CAST
LAYER = dict(kind=NormKind.LAYER)
EPS = 1e-5  # written out in the functions: with dynamic sizes Dynamo makes an input of a global number

NORMS: list[Written] = []


def written(who, rounding, *, dtypes=(BF16, FP16, FP32), weight=True, bias=False, exact=True, residual=True, **attributes):
    """A row.  ``attributes`` are the semantic op's, or a function of x's dtype.  ``exact``: same operations, same bits.

    ``residual``: it is also tried behind a plain addition.
    """

    def add(function):
        def op(dtype):
            given = {key: value(dtype) if callable(value) else value for key, value in attributes.items()}
            facts = dict(
                eps=EPS,
                x_dtype=dtype,
                dtype=dtype,
                weight_dtype=dtype if weight else None,
                bias_dtype=dtype if bias else None,
                rounding=SCALE_THEN_CAST if dtype is FP32 else rounding,
            )
            return Norm(**facts | given)

        operands = ("x", *(["weight"] if weight else []), *(["bias"] if bias else []))
        NORMS.append(Written(who, function, operands, op, dtypes, exact, residual))
        return function

    return add


def normalised(x):
    x32 = x.float()
    return x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-5)


@written("transformers: Llama, Qwen, Mistral and 140 others", CAST_THEN_SCALE)
def llama(x, weight):
    return weight * normalised(x).to(x.dtype)


@written("transformers: Llama 4", CAST_THEN_SCALE)
def llama4(x, weight):
    return normalised(x).type_as(x) * weight


@written("transformers: Gemma 1-3", SCALE_THEN_CAST, weight_offset=1.0)
def gemma(x, weight):
    return (normalised(x) * (1.0 + weight.float())).type_as(x)


@written("transformers: Gemma 3n, Gemma 4", SCALE_THEN_CAST)
def gemma4(x, weight):
    x32 = x.float()
    mean_squared = x32.pow(2).mean(-1, keepdim=True) + 1e-5
    return (x32 * torch.pow(mean_squared, -0.5) * weight.float()).type_as(x)


@written("transformers: Gemma 4 without scale", SCALE_THEN_CAST, weight=False)
def gemma4_weightless(x):
    x32 = x.float()
    return (x32 * torch.pow(x32.pow(2).mean(-1, keepdim=True) + 1e-5, -0.5)).type_as(x)


@written("transformers: Olmo 2, GPT-OSS, AFMoE", SCALE_THEN_CAST)
def olmo2(x, weight):
    return (weight * normalised(x)).to(x.dtype)


@written("transformers: Helium, Nemotron-H", SCALE_THEN_CAST)
def helium(x, weight):
    return (weight.to(FP32) * normalised(x)).to(x.dtype)


@written("transformers: NanoChat, FalconMamba", SCALE_THEN_CAST, weight=False)
def weightless(x):
    return normalised(x).type_as(x)


@written("transformers: T5, Pix2Struct, Idefics", CAST_THEN_SCALE)
def t5(x, weight):
    """x in its own dtype times an fp32 factor."""
    x = x * torch.rsqrt(x.to(FP32).pow(2).mean(-1, keepdim=True) + 1e-5)
    return weight * x.to(weight.dtype)


@written("transformers: T5 with an fp32 weight", SCALE_THEN_CAST, weight_dtype=FP32, dtype=FP32, dtypes=(BF16, FP16))
def t5_fp32_weight(x, weight):
    return weight * (x * torch.rsqrt(x.to(FP32).pow(2).mean(-1, keepdim=True) + 1e-5))


@written("transformers: Llama with an fp32 weight", CAST_THEN_SCALE, weight_dtype=FP32, dtype=FP32, dtypes=(BF16, FP16))
def llama_fp32_weight(x, weight):
    return weight * normalised(x).to(x.dtype)


@written("transformers: Olmo 2 with an fp32 weight", SCALE_THEN_CAST, weight_dtype=FP32, dtypes=(BF16, FP16))
def olmo2_fp32_weight(x, weight):
    return (weight * normalised(x)).to(x.dtype)


@written("transformers: DeepSeek V4 unweighted", SCALE_THEN_CAST, weight=False, factor_dtype=lambda dtype: dtype)
def rounded_factor(x):
    return x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-5).to(x.dtype)


@written("transformers: gated norms of Bailing, Kimi Linear", SCALE_THEN_CAST, dtype=FP32)
def gated(x, weight):
    return (weight.to(FP32) * normalised(x)) * torch.sigmoid(x.to(FP32))


@written("torch: F.rms_norm, nn.RMSNorm", SCALE_THEN_CAST, exact=False)
def functional_rms(x, weight):
    return F.rms_norm(x, (x.shape[-1],), weight, 1e-5)


@written("torch: F.rms_norm without a weight", SCALE_THEN_CAST, weight=False, exact=False)
def functional_rms_weightless(x):
    return F.rms_norm(x, (x.shape[-1],), eps=1e-5)


@written("plain code: over a square root", CAST_THEN_SCALE, root=NormRoot.SQRT)
def over_root(x, weight):
    x32 = x.float()
    return weight * (x32 / torch.sqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype)


@written("plain code: the power 0.5", SCALE_THEN_CAST, root=NormRoot.SQRT)
def over_half_power(x, weight):
    x32 = x.float()
    return (weight * (x32 / (x32.pow(2).mean(-1, keepdim=True) + 1e-5) ** 0.5)).to(x.dtype)


@written("plain code: times one over a square root", CAST_THEN_SCALE, root=NormRoot.RECIPROCAL_SQRT)
def times_reciprocal(x, weight):
    x32 = x.float()
    return weight * (x32 * (1.0 / torch.sqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-5))).to(x.dtype)


@written("plain code: statistics without keepdim, x * x, operands the other way round", CAST_THEN_SCALE)
def squeezed(x, weight):
    x32 = x.float()
    rstd = torch.rsqrt(1e-5 + (x32 * x32).mean(x.dim() - 1))
    return (rstd.unsqueeze(-1) * x32).to(x.dtype) * weight


@written("transformers: Granite", CAST_THEN_SCALE, residual=False, residual_multiplier=0.22)
def scaled_residual(x, residual, weight):
    return llama(residual + x * 0.22, weight)


@written("vLLM: the sum normalised before it is rounded", CAST_THEN_SCALE, dtypes=(BF16, FP16), residual=False)
def unrounded_sum(x, residual, weight):
    total = x.float() + residual
    rounded = total.to(x.dtype)
    total = total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + 1e-5)
    return total.to(x.dtype) * weight, rounded


@written("torch: F.layer_norm, nn.LayerNorm", SCALE_THEN_CAST, bias=True, exact=False, **LAYER)
def functional_layer(x, weight, bias):
    return F.layer_norm(x, (x.shape[-1],), weight, bias, 1e-5)


@written("torch: F.layer_norm without bias", SCALE_THEN_CAST, exact=False, **LAYER)
def functional_layer_biasless(x, weight):
    return F.layer_norm(x, (x.shape[-1],), weight, None, 1e-5)


@written("torch: F.layer_norm without weight (OLMo)", SCALE_THEN_CAST, weight=False, exact=False, **LAYER)
def functional_layer_weightless(x):
    return F.layer_norm(x, (x.shape[-1],), eps=1e-5)


@written("transformers: Cohere", SCALE_THEN_CAST, **LAYER)
def cohere(x, weight):
    x32 = x.float()
    mean = x32.mean(-1, keepdim=True)
    variance = (x32 - mean).pow(2).mean(-1, keepdim=True)
    return (weight.to(FP32) * ((x32 - mean) * torch.rsqrt(variance + 1e-5))).to(x.dtype)


@written("transformers: DeBERTa", CAST_THEN_SCALE, bias=True, root=NormRoot.SQRT, **LAYER)
def deberta(x, weight, bias):
    x32 = x.float()
    mean = x32.mean(-1, keepdim=True)
    variance = (x32 - mean).pow(2).mean(-1, keepdim=True)
    return weight * ((x32 - mean) / torch.sqrt(variance + 1e-5)).to(x.dtype) + bias


@written("transformers: Chameleon", CAST_THEN_SCALE, bias=True, exact=False, **LAYER)
def chameleon(x, weight, bias):
    return F.layer_norm(x, (x.shape[-1],), None, None, 1e-5) * weight + bias


@written("plain code: torch.var", SCALE_THEN_CAST, bias=True, exact=False, **LAYER)
def by_var(x, weight, bias):
    x32 = x.float()
    variance = x32.var(-1, unbiased=False, keepdim=True)
    return ((x32 - x32.mean(-1, keepdim=True)) * torch.rsqrt(variance + 1e-5) * weight + bias).to(x.dtype)


@written("plain code: torch.var_mean", SCALE_THEN_CAST, bias=True, exact=False, **LAYER)
def by_var_mean(x, weight, bias):
    x32 = x.float()
    variance, mean = torch.var_mean(x32, -1, correction=0, keepdim=True)
    return ((x32 - mean) * torch.rsqrt(variance + 1e-5) * weight + bias).to(x.dtype)


for row in NORMS:
    if "residual" in row.function.__code__.co_varnames[: row.function.__code__.co_argcount]:
        row.operands = ("x", "residual", "weight")
