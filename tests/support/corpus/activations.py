# SPDX-License-Identifier: Apache-2.0
"""Activations as real models write them, each with what it is to be read as: rows of the conformance table.

Each function is one row alone and one times a second half.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from helion_compile.passes.semantics import Activation, ActivationFunction, ActivationRounding
from tests.support.conformance import Written

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
SILU, SIGMOID, GELU, GELU_DIVIDED, GELU_TANH, GELU_TANH_FACTORED, RELU_SQUARED, RELU, QUICK_GELU = ActivationFunction
FUNCTION, RESULT, EVERY_STEP = ActivationRounding

ACTIVATIONS: list[Written] = []


def row(who, function, operands, kind, rounding, exact, *, dtype=None, **attributes):
    def op(x_dtype):
        return Activation(
            function=kind,
            gated="up" in operands,
            x_dtype=x_dtype,
            dtype=dtype or x_dtype,
            rounding=RESULT if x_dtype is FP32 else rounding,
            **attributes,
        )

    ACTIVATIONS.append(Written(who, function, operands, op, (BF16, FP16, FP32), exact))


def written(who, kind, rounding=RESULT, *, exact=False):
    """Two rows.  ``exact``: same operations as in the formula of its kind, so same bits."""

    def add(function):
        def times_up(x, up):
            return function(x) * up

        times_up.__name__ = f"{function.__name__}_times_up"
        row(who, function, ("x",), kind, rounding, exact)
        narrow = FUNCTION if rounding is RESULT and kind is not RELU else rounding
        row(who, times_up, ("x", "up"), kind, narrow, exact)
        return function

    return add


@written("torch: F.silu, nn.SiLU", SILU)
def silu(x):
    return F.silu(x)


@written("plain code: the quotient in fp32", SILU)
def silu_quotient_in_fp32(x):
    x32 = x.float()
    return (x32 / (1 + torch.exp(-x32))).to(x.dtype)


@written("plain code: by sigmoid in fp32", SIGMOID, exact=True)
def silu_in_fp32(x):
    return (x.float() * torch.sigmoid(x.float())).to(x.dtype)


@written("plain code: by sigmoid, each step rounded", SIGMOID, EVERY_STEP, exact=True)
def silu_step_by_step(x):
    return torch.sigmoid(x) * x


@written("torch: F.gelu, nn.GELU", GELU)
def gelu(x):
    return F.gelu(x)


@written("plain code: by erf in fp32", GELU)
def gelu_in_fp32(x):
    x32 = x.float()
    return ((1.0 + torch.erf(math.sqrt(0.5) * x32)) * (0.5 * x32)).to(x.dtype)


@written("transformers: gelu_python, ESM", GELU_DIVIDED, EVERY_STEP, exact=True)
def gelu_python(x):
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


@written("plain code: the same in fp32", GELU_DIVIDED, exact=True)
def gelu_python_in_fp32(x):
    return gelu_python(x.float()).to(x.dtype)


@written("torch: F.gelu(approximate='tanh'); transformers: gelu_pytorch_tanh", GELU_TANH)
def gelu_tanh(x):
    return F.gelu(x, approximate="tanh")


@written("transformers: gelu_new, gelu_python_tanh (GPT-2)", GELU_TANH, EVERY_STEP)
def gpt2_gelu(x):
    return 0.5 * x * (1.0 + torch.tanh(0.7978845608028654 * (x + 0.044715 * torch.pow(x, 3.0))))


@written("transformers: gelu_fast, Bloom", GELU_TANH_FACTORED, EVERY_STEP, exact=True)
def gelu_fast(x):
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


@written("plain code: the same in fp32", GELU_TANH_FACTORED, exact=True)
def gelu_fast_in_fp32(x):
    return gelu_fast(x.float()).to(x.dtype)


@written("transformers: relu2 (Nemotron)", RELU_SQUARED, exact=True)
def relu_squared(x):
    return torch.square(F.relu(x))


@written("plain code: as a power", RELU_SQUARED, exact=True)
def relu_squared_as_power(x):
    return torch.pow(F.relu(x), 2)


@written("plain code: as a product", RELU_SQUARED, exact=True)
def relu_times_relu(x):
    return F.relu(x) * F.relu(x)


@written("torch: F.relu (T5, SAM, OPT)", RELU, exact=True)
def relu(x):
    return F.relu(x)


@written("transformers: quick_gelu (CLIP, Qwen2-VL)", QUICK_GELU, EVERY_STEP, exact=True)
def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


@written("plain code: the same in fp32", QUICK_GELU, exact=True)
def quick_gelu_in_fp32(x):
    return quick_gelu(x.float()).to(x.dtype)


def gpt_oss(x, up):
    gate, up = x.clamp(max=7.0), up.clamp(min=-7.0, max=7.0)
    return (up + 1) * (gate * torch.sigmoid(gate * 1.702))


def gpt_oss_in_fp32(x, up):
    return gpt_oss(x.float(), up.float()).to(x.dtype)


def clamped_silu(x, up):
    return F.silu(x.clamp(max=10.0)) * up.clamp(-10.0, 10.0)


def silu_times_one_and_up(x, up):
    return F.silu(x) * (1 + up)


row("transformers: gpt-oss, MiniMax M3", gpt_oss, ("x", "up"), QUICK_GELU, EVERY_STEP, True, limit=7.0, up_offset=1.0)
row("plain code: the same in fp32", gpt_oss_in_fp32, ("x", "up"), QUICK_GELU, RESULT, True, limit=7.0, up_offset=1.0)
row("plain code: silu with such clamps", clamped_silu, ("x", "up"), SILU, FUNCTION, False, limit=10.0)
row("plain code: an offset alone", silu_times_one_and_up, ("x", "up"), SILU, FUNCTION, False, up_offset=1.0)


def product_in_fp32(x, up):
    return (F.silu(x.float()) * up.float()).to(x.dtype)


def fp32_result(x, up):
    return F.silu(x.float()) * up.float()


row("vLLM: SiluAndMul of fp32 halves", product_in_fp32, ("x", "up"), SILU, RESULT, False)
row("plain code: a product that stays in fp32", fp32_result, ("x", "up"), SILU, RESULT, False, dtype=FP32)
