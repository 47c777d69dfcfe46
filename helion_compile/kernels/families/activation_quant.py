# SPDX-License-Identifier: Apache-2.0
"""``activation_quant``: an activation function, alone or times a second half, and quantisation to 8 bits in one pass.

Letters: ``M`` rows (tokens), ``K`` elements of a row of the result.

Numerics.  With ``exact`` every rounding step of the written form is kept: bit for bit what eager PyTorch gives on a GPU.
Without it everything up to the quantised value stays in fp32, as in the code that Inductor makes of the same chain.
"""

from __future__ import annotations

from typing import NamedTuple

import helion.language as hl
import torch

from helion_compile.configs.case import Case
from helion_compile.helion_kernel import Configs, Tuning, kernel
from helion_compile.kernels.arguments import takes
from helion_compile.kernels.device.activation import FUNCTIONS, ROUNDINGS, activate, activate_reference
from helion_compile.kernels.device.pdl import grid_dependency_wait, launch_dependents
from helion_compile.kernels.device.quantize import quantize_rows, quantize_rows_reference
from helion_compile.kernels.device.quantize_attrs import check_quantizer, get_group, new_results
from helion_compile.kernels.device.rows import (
    check_rows,
    check_scalar,
    drop_missing,
    expand_to_rows,
    find_dtype,
    load_tile,
    store_tile,
    view_by_group,
)
from helion_compile.kernels.families.quant import get_quantizer_fields, make_quantizer
from helion_compile.kernels.families.row_configs import adapt_row_config, choose_quantizer_config

__all__ = ["ActivationQuantArgs", "activation_quant"]


class ActivationQuantArgs(NamedTuple):
    """What ``activation_quant`` takes; see there."""

    x: torch.Tensor
    up: torch.Tensor | None
    scale: torch.Tensor | None
    scale_ub: torch.Tensor | None
    function: str
    rounding: str
    quantizer: str
    exact: bool
    keep: bool


@takes(ActivationQuantArgs)
def _reference(args):
    values = activate_reference(args.x, args.up, args.function, args.rounding, args.exact)
    kept = values.to(args.x.dtype) if args.keep else None
    quantized = quantize_rows_reference(values, args.scale, args.scale_ub, args.quantizer, args.exact)
    return drop_missing(*quantized, kept)


@takes(ActivationQuantArgs)
def _case(args):
    return Case(
        hidden_size=args.x.size(-1),
        num_tokens=args.x.size(0),
        dtype=args.x.dtype,
        gated=args.up is not None,
        **get_quantizer_fields(args.scale, args.quantizer),
    )


@takes(ActivationQuantArgs)
def _check_supported(args):
    x, up, function, rounding, exact = args.x, args.up, args.function, args.rounding, args.exact
    if function.partition(" ")[0] not in FUNCTIONS or rounding not in ROUNDINGS:
        return f"function {function!r} rounded {rounding!r} is none of {FUNCTIONS} and {ROUNDINGS}"
    if exact and function.startswith("gelu") and x.is_cuda:
        # 1 + erf(x) and 1 + tanh(x) cancel for negative x, so that one ulp of erf moves one bf16 result in seventy.
        return f"{function} in CUDA's libraries and in Triton's differs in last bits; use numerics='default'"
    if exact and function == "gelu_tanh" and rounding == "every_step" and x.dtype != torch.float32:
        return f"each step of gelu's cube is rounded to {x.dtype}, which the kernel does not keep; use numerics='default'"
    if up is not None and (up.dtype != x.dtype or up.shape != x.shape):
        return f"up is {up.dtype} {tuple(up.shape)} and x is {x.dtype} {tuple(x.shape)}; both must be alike"
    return (
        check_rows(2, x=x, up=up)
        or check_scalar(scale=args.scale, scale_ub=args.scale_ub)
        or check_quantizer(args.quantizer, x.size(-1), exact)
    )


def _default_config(case):
    """As many warps for a whole row as give each thread about 16 elements, or 32 of the longest rows."""
    hidden_size = int(case.fields.get("hidden_size", 4096))
    warps = 1
    while warps < 32 and warps * 32 * 16 < hidden_size:
        warps *= 2
    return choose_quantizer_config(case, warps)


def _inputs(case, device):
    x = torch.randn(case["num_tokens"], case["hidden_size"], device=device).to(find_dtype(case))
    up = torch.randn_like(x) if case["gated"] else None
    scale, quantizer = make_quantizer(case, device)
    return ActivationQuantArgs(
        x=x,
        up=up,
        scale=scale,
        scale_ub=None,
        function="silu",
        rounding="function",
        quantizer=quantizer,
        exact=False,
        keep=False,
    )


def _shapes(layer):
    return [{"hidden_size": layer.intermediate_size, "gated": True}]


@kernel(
    reference=_reference,
    case=_case,
    check_supported=_check_supported,
    configs=Configs(default=_default_config, adapt=adapt_row_config, measured_on=("sm_90",)),
    tuning=Tuning(inputs=_inputs, shapes=_shapes),
)
def activation_quant(
    x: torch.Tensor,
    up: torch.Tensor | None,
    scale: torch.Tensor | None,
    scale_ub: torch.Tensor | None,
    function: hl.constexpr,
    rounding: hl.constexpr,
    quantizer: hl.constexpr,
    exact: hl.constexpr,
    keep: hl.constexpr,
):
    """``f(x)`` or ``f(x) * up``, quantised; each input is read once.

    Args:
        x, up: [M, K] bf16, fp16 or fp32, as the halves of one matmul's result are, one behind the other or each every second
            element; ``up`` may be None.
        scale, scale_ub, quantizer: as for ``quant``.
        function: text of :class:`helion_compile.kernels.device.activation.ActivationAttrs`.
        rounding: where the model rounds to ``x``'s dtype: "function" (f(x), then the product), "result" (at the end) or
            "every_step".
        exact: keep every rounding step of the model (see the module's text).
        keep: return the activation too.

    Returns:
        8 bits [M, K]; unless static, fp32 scales [M, 1] or [M, K / group]; with a zero point, int8 [M, 1]; the activation
        [M, K] in ``x``'s dtype, if ``keep``.
    """
    m, k = x.size()
    k = hl.specialize(k)
    group = get_group(quantizer)
    q, scales, zero = new_results(x, scale, quantizer)
    kept = torch.empty([m, k], dtype=x.dtype, device=x.device) if keep else None
    x_rows, up_rows, q_rows, kept_rows = (
        view_by_group(x, group),
        view_by_group(up, group),
        view_by_group(q, group),
        view_by_group(kept, group),
    )
    scale_rows = view_by_group(scales, None if group is None else 1)
    static, bound = expand_to_rows(scale, x_rows), expand_to_rows(scale_ub, x_rows)
    # A scale of its own for each row needs the row whole; a static one or one a group leaves its parts to other programs.
    for tile in hl.tile([m] if scale is None and group is None else [m, x_rows.size(1)]):
        launch_dependents()
        grid_dependency_wait()
        values = activate(load_tile(x_rows, tile), load_tile(up_rows, tile), x.dtype, function, rounding, exact)
        if keep:
            store_tile(kept_rows, tile, values.to(x.dtype))
        bits, scale_of_tile, zero_of_tile = quantize_rows(
            values, load_tile(static, tile), load_tile(bound, tile), quantizer, exact
        )
        store_tile(q_rows, tile, bits)
        store_tile(scale_rows, tile, scale_of_tile)
        store_tile(zero, tile, zero_of_tile)
    return drop_missing(q, scales, zero, kept)
