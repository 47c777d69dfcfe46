"""``quant``: quantisation to 8 bits, one read and one write.

Letters: ``M`` rows (tokens), ``K`` elements of a row.
"""

from __future__ import annotations

import helion.language as hl
import torch

from helion_compile.configs.case import Case
from helion_compile.helion_kernel import Configs, Tuning, kernel
from helion_compile.kernels.device.pdl import grid_dependency_wait, launch_dependents
from helion_compile.kernels.device.quantize import quantize_rows, quantize_rows_reference
from helion_compile.kernels.device.quantize_attrs import Quantization, group_of, new_results, quantization
from helion_compile.kernels.device.rows import (
    by_group,
    dtype_of,
    load_rows,
    of_every_row,
    present,
    refuse_number,
    refuse_rows,
    store_rows,
    warps_of,
)

__all__ = ["quant", "quantizer_facts", "quantizer_of"]


def quantizer_facts(scale: torch.Tensor | None, quantizer: str) -> dict[str, object]:
    """What of a quantiser a config depends on: see docs/tuning.md.  Empty for dynamic scales a token."""
    facts: dict[str, object] = {}
    if scale is not None:
        facts["static"] = True
    if group := Quantization(quantizer).group:
        facts["group"] = group
    return facts


def quantizer_of(case: Case, device: torch.device) -> tuple[torch.Tensor | None, str]:
    """A static scale, if the case has one, and a quantiser of the case: torchao's to fp8."""
    scale = torch.full((1,), 0.01, device=device) if case.fields.get("static") else None
    group = case.fields.get("group")
    return scale, quantization(
        torch.float8_e4m3fn, clamp=(-448.0, 448.0), scale_dtype=torch.bfloat16, group=None if group is None else int(group)
    )


def _reference(x, scale, scale_ub, quantizer, exact):
    return present(*quantize_rows_reference(x.float(), scale, scale_ub, quantizer, exact))


def _case(x, scale, scale_ub, quantizer, *_):
    return Case(hidden_size=x.size(-1), num_tokens=x.size(0), dtype=x.dtype, **quantizer_facts(scale, quantizer))


def _check_supported(x, scale, scale_ub, quantizer, exact):
    return (
        refuse_rows(x=x) or refuse_number(scale=scale, scale_ub=scale_ub) or Quantization(quantizer).refuse(x.size(-1), exact)
    )


def _inputs(case, device):
    x = torch.randn(case["num_tokens"], case["hidden_size"], device=device).to(dtype_of(case))
    scale, quantizer = quantizer_of(case, device)
    return x, scale, None, quantizer, False


def _default_config(case):
    config = {"block_sizes": [1], "num_warps": warps_of(case)}
    # For rows that are no power of two Helion would loop over pieces and read each row three times; groups are powers of two.
    return config if "group" in case.fields else config | {"reduction_loops": [None]}


def _shapes(layer):
    """Inputs of the linears that no norm precedes, and of the others where the norm has to stay."""
    return [{"hidden_size": k} for k in (layer.attention_size, layer.intermediate_size, layer.hidden_size)]


@kernel(
    reference=_reference,
    case=_case,
    check_supported=_check_supported,
    configs=Configs(default=_default_config),
    tuning=Tuning(inputs=_inputs, shapes=_shapes),
)
def quant(
    x: torch.Tensor,
    scale: torch.Tensor | None,
    scale_ub: torch.Tensor | None,
    quantizer: hl.constexpr,
    exact: hl.constexpr,
):
    """Quantise ``x`` to 8 bits, reading it once.

    Args:
        x: [M, K] bf16, fp16 or fp32, last dimension contiguous.
        scale: fp32 of one element, a static scale for all; None for one taken from each row or group.
        scale_ub: fp32 of one element, upper bound of the largest magnitudes, or None.
        quantizer: text of :func:`helion_compile.kernels.device.quantize_attrs.quantization`.
        exact: keep every rounding step of the model (see kernels/quantizing.py).

    Returns:
        8 bits [M, K]; unless static, fp32 scales [M, 1] or [M, K / group]; then, with a zero point, int8 [M, 1].
    """
    m, k = x.size()
    k = hl.specialize(k)
    group = group_of(quantizer)
    q, scales, zero = new_results(x, scale, quantizer)
    x_rows, q_rows = by_group(x, group), by_group(q, group)
    scale_rows = by_group(scales, None if group is None else 1)
    static, bound = of_every_row(scale, x_rows), of_every_row(scale_ub, x_rows)
    for rows in hl.tile(m):
        launch_dependents()
        grid_dependency_wait()
        values = load_rows(x_rows, rows)
        bits, scale_of_rows, zero_of_rows = quantize_rows(
            values, load_rows(static, rows), load_rows(bound, rows), quantizer, exact
        )
        store_rows(q_rows, rows, bits)
        store_rows(scale_rows, rows, scale_of_rows)
        store_rows(zero, rows, zero_of_rows)
    return present(q, scales, zero)
