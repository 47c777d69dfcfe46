# SPDX-License-Identifier: Apache-2.0
"""Rotary embeddings as real models write them, each with what it is to be read as: rows of the conformance table.

x is [B, S, H, D], cos and sin [B, S, 1, R] or [B, S, 1, R / 2]; where x is transposed, [B, 1, S, R].
"""

from __future__ import annotations

import torch

from helion_compile.passes.semantics import ComplexRope, Rope, RopePairs, RopeRounding, RopeTable
from tests.support.conformance import Written

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
NEOX, INTERLEAVED = RopePairs
ELEMENT, PAIR = RopeTable
EVERY_STEP, RESULT = RopeRounding
HEADS = (2, 5, 4, 64)

ROPES: list[Written] = []


def written(who, pairs, table, rounding=EVERY_STEP, *, rotary_dim=HEADS[-1], table_dtype=None, **facts):
    """A row; cos and sin have x's dtype if ``table_dtype`` does not say another."""

    def add(function):
        def op(dtype):
            return Rope(
                pairs=pairs,
                table=table,
                rotary_dim=rotary_dim,
                x_dtype=dtype,
                dtype=dtype,
                table_dtype=table_dtype or dtype,
                rounding=RESULT if dtype is FP32 else rounding,
                **facts,
            )

        ROPES.append(Written(who, function, ("x", "cos", "sin"), op, (BF16, FP16, FP32), sizes=HEADS))
        return function

    return add


def halves(x):
    return x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]


def even_odd(x):
    return x[..., 0::2], x[..., 1::2]


@written("transformers: Llama, Qwen, Mistral, Gemma and 110 others", NEOX, ELEMENT)
def rotate_half(x, cos, sin):
    x1, x2 = halves(x)
    return x * cos + torch.cat((-x2, x1), -1) * sin


@written("plain code: by chunk, operands the other way round", NEOX, ELEMENT)
def rotate_half_by_chunk(x, cos, sin):
    x1, x2 = x.chunk(2, dim=-1)
    return sin * torch.cat([-x2, x1], dim=-1) + cos * x


@written("transformers: the same of [B, H, S, D]", NEOX, ELEMENT, transposed=True)
def rotate_half_heads_first(x, cos, sin):
    return rotate_half(x.transpose(1, 2), cos, sin)


@written("transformers: Olmo 2, with angles in fp32", NEOX, ELEMENT, RESULT, table_dtype=FP32)
def olmo2_rope(x, cos, sin):
    return rotate_half(x, cos, sin).to(x.dtype)


@written("transformers: ModernBERT, ESM", NEOX, ELEMENT, RESULT)
def in_fp32(x, cos, sin):
    return rotate_half(x.float(), cos, sin).to(x.dtype)


@written("transformers: GPT-NeoX, Phi-3, StableLM: a part of a head", NEOX, ELEMENT, rotary_dim=32)
def partial(x, cos, sin):
    return torch.cat((rotate_half(x[..., :32], cos, sin), x[..., 32:]), -1)


@written(
    "transformers: Laguna, Qwen3-Next: a part of a head",
    NEOX,
    ELEMENT,
    rotary_dim=32,
    transposed=True,
)
def partial_heads_first(x, cos, sin):
    return partial(x.transpose(1, 2), cos, sin)


@written("transformers: NanoChat, by minus the angle", NEOX, ELEMENT, inverse=True)
def rotate_half_inverse(x, cos, sin):
    x1, x2 = halves(x)
    return x * cos + torch.cat((x2, -x1), -1) * sin


@written("transformers: GLM, GPT-J, Helium", INTERLEAVED, ELEMENT)
def rotate_pairs(x, cos, sin):
    x1, x2 = even_odd(x)
    return x * cos + torch.stack((-x2, x1), -1).flatten(-2) * sin


@written("transformers: Cohere", INTERLEAVED, ELEMENT, RESULT)
def rotate_pairs_in_fp32(x, cos, sin):
    return rotate_pairs(x.float(), cos, sin).to(x.dtype)


@written("diffusers: Flux, LTX, HunyuanVideo, CogVideoX", INTERLEAVED, ELEMENT, RESULT, table_dtype=FP32)
def rotate_unbound_pairs(x, cos, sin):
    real, imaginary = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
    rotated = torch.stack([-imaginary, real], dim=-1).flatten(3)
    return (x.float() * cos + rotated.float() * sin).to(x.dtype)


@written("diffusers: CogView4, Cosmos, Stable Audio", NEOX, ELEMENT, RESULT, table_dtype=FP32)
def rotate_unbound_halves(x, cos, sin):
    real, imaginary = x.reshape(*x.shape[:-1], 2, -1).unbind(-2)
    rotated = torch.cat([-imaginary, real], dim=-1)
    return (x.float() * cos + rotated.float() * sin).to(x.dtype)


@written("transformers: GPT-OSS; vLLM", NEOX, PAIR)
def chunked(x, cos, sin):
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), -1)


@written("plain code: by minus the angle", NEOX, PAIR, inverse=True)
def chunked_inverse(x, cos, sin):
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat((x1 * cos + x2 * sin, x2 * cos - x1 * sin), -1)


@written("plain code: each half rounded", NEOX, PAIR, RESULT, table_dtype=FP32)
def chunked_and_rounded(x, cos, sin):
    x1, x2 = x.float().chunk(2, dim=-1)
    return torch.cat(((x1 * cos - x2 * sin).to(x.dtype), (x2 * cos + x1 * sin).to(x.dtype)), -1)


@written("vLLM, not NeoX's style", INTERLEAVED, PAIR)
def stacked(x, cos, sin):
    x1, x2 = even_odd(x)
    return torch.stack((x1 * cos - sin * x2, x1 * sin + cos * x2), -1).flatten(-2)


@written("plain code: by unbind", INTERLEAVED, PAIR)
def stacked_by_unbind(x, cos, sin):
    x1, x2 = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((x1 * cos - x2 * sin, x2 * cos + x1 * sin), -1).flatten(-2)


@written("plain code: strided writes", INTERLEAVED, PAIR)
def strided_writes(x, cos, sin):
    x1, x2 = x.unflatten(-1, (-1, 2)).unbind(-1)
    out = torch.empty_like(x)
    out[..., 0::2] = x1 * cos - x2 * sin
    out[..., 1::2] = x1 * sin + x2 * cos
    return out


@written("diffusers: Wan, strided writes that round", INTERLEAVED, PAIR, RESULT, table_dtype=FP32)
def rounding_writes(x, cos, sin):
    return strided_writes(x, cos, sin).type_as(x)


@written("plain code: writes to halves", NEOX, PAIR)
def written_halves(x, cos, sin):
    x1, x2 = halves(x)
    out = torch.empty_like(x)
    out[..., x.shape[-1] // 2 :] = x2 * cos + x1 * sin
    out[..., : x.shape[-1] // 2] = x1 * cos - x2 * sin
    return out


def complex_products(x, freqs):
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * freqs).flatten(3).type_as(x)


def complex_products_of_fp64_angles(x, freqs):
    return complex_products(x, freqs)


def complex_products_in_fp64(x, freqs):
    pairs = torch.view_as_complex(x.to(torch.float64).unflatten(3, (-1, 2)))
    return torch.view_as_real(pairs * freqs).flatten(3, 4).type_as(x)


def by_products(who, function, **facts):
    def op(dtype):
        return ComplexRope(rotary_dim=HEADS[-1], x_dtype=dtype, dtype=dtype, **facts)

    ROPES.append(Written(who, function, ("x", "freqs"), op, (BF16, FP16, FP32), exact=False, sizes=HEADS))


by_products("transformers: Llama 4, DeepSeek V2; diffusers: Qwen-Image, Z-Image", complex_products)
by_products("diffusers: Lumina 2, with complex128 angles", complex_products_of_fp64_angles, computed=torch.float64)
by_products("diffusers: Wan's first version", complex_products_in_fp64, computed=torch.float64)
