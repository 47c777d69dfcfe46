# SPDX-License-Identifier: Apache-2.0
"""What an operator bounds the scale of a group by, by its own answer on a group of zeros.

``_C.silu_and_mul_per_block_quant`` has one floor or another, by the version of vLLM, which nothing in a graph tells.  A graph
that was compiled with one answer is in no cache of another: vLLM's caches have its version in their keys.
"""

from __future__ import annotations

import functools
import logging

import torch

from helion_compile.passes.compat import OpOverload, disable_current_modes
from helion_compile.passes.ir.values import rounded

__all__ = ["ask_scale_floor"]

log = logging.getLogger(__name__)


@functools.cache
def ask_scale_floor(op: OpOverload, device: torch.device, dtype: torch.dtype, group: int) -> float | None:
    """The scale that ``op`` gives to ``group`` zeros on ``device``; None where it cannot run there, as on a CPU.

    Args:
        op: with the arguments of ``_C.silu_and_mul_per_block_quant``.
        dtype: of its input.
    """
    try:
        with disable_current_modes(), torch.no_grad():
            x = torch.zeros(1, 2 * group, dtype=dtype, device=device)
            q = torch.empty(1, group, dtype=torch.float8_e4m3fn, device=device)
            scale = torch.full((1, 1), float("nan"), device=device)
            op(q, x, scale, group, None, False)
            return rounded(scale.item(), torch.float32)
    except Exception as error:  # whatever keeps it from running, the operator stays as it is
        log.debug("%s does not say by what it bounds its scales: %r", op, error)
        return None
