# SPDX-License-Identifier: Apache-2.0
"""A part of a graph computed in fp64: what its code would give if it never rounded on the way."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Interpreter
from torch.fx.node import Target

from helion_compile.compat import tree_map

__all__ = ["in_fp64"]

_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
aten = torch.ops.aten


def in_fp64(module: GraphModule, inputs: tuple[Any, ...]) -> tuple[torch.Tensor, ...] | None:
    """What ``module(*inputs)`` gives with every 16- and 32-bit float in fp64; None where an operation has no fp64 form.

    Casts to 8-bit types stay: a quantiser's result is the fp64 value rounded once.
    """
    if any(node.target is aten.view.dtype for node in module.graph.nodes):
        return None  # looks at the bits of a float, which another float has not
    try:
        return _InFp64(module).run(*map(_wide, inputs))
    except Exception:
        return None


class _InFp64(Interpreter):
    def call_function(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target is aten._scaled_mm.default:
            return _product(*args, **kwargs)
        args, kwargs = tree_map(_wide_dtype, (args, kwargs))
        return super().call_function(target, args, kwargs)


def _product(a, b, a_scale, b_scale, bias=None, *_, **__):
    out = (a.double() * _spread(a_scale, a)) @ (b.double() * _spread(b_scale, b))
    return out if bias is None else out + bias


def _spread(scale, values):
    """Scales of blocks, one for each of ``values``; others as they are.  A block has a power of two."""
    for dim, (blocks, size) in enumerate(zip(scale.shape, values.shape, strict=False)):
        if blocks not in (1, size):
            block = 1 << (-(-size // blocks) - 1).bit_length()
            scale = scale.repeat_interleave(block, dim).narrow(dim, 0, size)
    return scale


def _wide(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.dtype in _FLOATS else value


def _wide_dtype(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in _FLOATS else value
