# SPDX-License-Identifier: Apache-2.0
"""One decode step of ``bench vllm --profile``: where its time goes in each variant, and the least it can be.

The least is the bytes that have to move, each once, at the bandwidth of a copy: the weights of the GEMMs, the keys and
values that attention reads, and what lies between two GEMMs in the best case that every chain is one kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

__all__ = ["limits", "role_of", "roles_table"]

HEAD_DIM, KEY_VALUE_HEADS, VOCABULARY = 128, 8, 151936  # of the model that the benchmark makes
PROMPT = 128
BETWEEN, ATTENTION, GEMMS, REST = "between GEMMs", "attention and cache", "GEMMs", "the rest"
# In this order: Flash Attention's kernels are CUTLASS's too, and Inductor names its kernels after what it put into them.
_NAMES = (
    (BETWEEN, re.compile(r"^triton_|helion|rms_norm|silu_and_mul|act_and_mul|rotary|_quant_kernel", re.IGNORECASE)),
    (ATTENTION, re.compile(r"flash|fmha|attention|attn|cache", re.IGNORECASE)),
    (GEMMS, re.compile(r"cutlass|gemm|gemv|nvjet|cublas|xmma|splitk", re.IGNORECASE)),
)

Kernels = Iterable[tuple[str, float, float]]  # name, calls a step, µs a step


def role_of(kernel: str) -> str:
    """What a kernel of this name is for."""
    return next((role for role, pattern in _NAMES if pattern.search(kernel)), REST)


def limits(spec: Mapping[str, Any], batch: int, bandwidth: float) -> dict[str, float]:
    """The least time of a step of ``batch`` tokens by role, in µs; ``bandwidth`` in bytes a second.

    Weights are fp8, those of the last GEMM and all activations bf16.
    """
    hidden, intermediate, layers = spec["hidden"], spec["intermediate"], spec["layers"]
    keys = KEY_VALUE_HEADS * HEAD_DIM
    weights = hidden * (hidden + 2 * keys) + hidden * hidden + 3 * hidden * intermediate
    norms = 2 * 7 * hidden  # x, the residual and its sum in bf16, fp8 out
    activation, quantiser = 5 * intermediate, 3 * hidden
    heads = 4 * (hidden + keys)  # queries and keys in and out
    moved = {
        GEMMS: layers * weights + 2 * VOCABULARY * hidden,
        ATTENTION: layers * batch * PROMPT * 2 * keys * 2,
        BETWEEN: layers * batch * (norms + activation + quantiser + heads),
    }
    return {role: size / bandwidth * 1e6 for role, size in moved.items()}


def roles_table(title: str, kernels: Mapping[str, Kernels], least: Mapping[str, float]) -> Table:
    """A row a role: calls and µs of each variant, and the limit."""
    totals = {variant: _by_role(found) for variant, found in kernels.items()}
    table = Table("", *(f"{variant}, µs (calls)" for variant in totals), "limit, µs", title=title)
    for role in (GEMMS, ATTENTION, BETWEEN, REST):
        cells = [f"{us[role]:.0f} ({calls[role]:.0f})" for calls, us in totals.values()]
        table.add_row(role, *cells, f"{least[role]:.0f}" if role in least else "")
    sums = [f"{sum(us.values()):.0f} ({sum(calls.values()):.0f})" for calls, us in totals.values()]
    table.add_row("all", *sums, f"{sum(least.values()):.0f}")
    return table


def _by_role(kernels: Kernels) -> tuple[dict[str, float], dict[str, float]]:
    calls = dict.fromkeys((GEMMS, ATTENTION, BETWEEN, REST), 0.0)
    us = dict(calls)
    for name, count, time in kernels:
        calls[role_of(name)] += count
        us[role_of(name)] += time
    return calls, us
