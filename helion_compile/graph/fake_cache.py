# SPDX-License-Identifier: Apache-2.0
"""What calls of a kernel give on fake tensors, kept while one graph is traced.

A reference is some twenty operations, each a fraction of a millisecond on fake tensors, and a model calls a kernel with the
same shapes once a layer.  Only layouts of the results are kept, and only as long as the fake mode, so the symbols in them are
those of one graph.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from helion_compile.compat import FakeTensor, FakeTensorMode
from helion_compile.passes.ir.fake_results import has_plain_sizes, make_fake

if TYPE_CHECKING:
    from helion_compile.definitions.spec import KernelSpec

__all__ = ["recall", "trace"]


class _Layout(NamedTuple):
    """Of a new tensor."""

    size: tuple[Any, ...]
    stride: tuple[Any, ...]
    dtype: torch.dtype
    device: torch.device


_known: weakref.WeakKeyDictionary[FakeTensorMode, dict[Hashable, list[_Layout]]] = weakref.WeakKeyDictionary()


def trace(mode: FakeTensorMode, kernel: KernelSpec, args: tuple[Any, ...]) -> Any:
    """``kernel.trace(args)``, within ``mode``; of a key seen before without running the reference again."""
    key = _make_key(kernel, args)
    if key is None:
        return kernel.trace(args)
    known = _known.setdefault(mode, {})
    if key not in known:
        value = kernel.trace(args)
        results = kernel.flatten_results(value)
        if all(each.storage_offset() == 0 and each.layout is torch.strided for each in results):
            known[key] = [_Layout(tuple(each.shape), each.stride(), each.dtype, each.device) for each in results]
        return value
    like = [torch.empty_strided(size, stride, dtype=dtype, device=device) for size, stride, dtype, device in known[key]]
    return like[0] if len(like) == 1 else tuple(like)


def recall(mode: FakeTensorMode, kernel: KernelSpec, args: tuple[Any, ...]) -> Any | None:
    """What ``trace`` gave for such arguments before; None where there are symbols, or nothing is known."""
    known = _known.get(mode)
    if known is None or not all(has_plain_sizes(arg) for arg in args if isinstance(arg, (torch.Tensor, torch.SymInt))):
        return None
    layouts = known.get(_make_key(kernel, args))
    if layouts is None:
        return None
    made = [make_fake(mode, *layout) for layout in layouts]
    return made[0] if len(made) == 1 else tuple(made)


def _make_key(kernel: KernelSpec, args: tuple[Any, ...]) -> Hashable | None:
    """All that the results can depend on; None where they are not to be kept."""
    if kernel.mutates:
        return None  # which give their arguments' new values too
    parts = [_key_part(arg) for arg in args]
    return None if NotImplemented in parts else (kernel, *parts)


def _key_part(value: Any) -> Hashable:
    if isinstance(value, torch.SymInt):
        expression = getattr(value.node, "expr", None)  # none of the ragged size of a jagged tensor
        return NotImplemented if expression is None else ("symbol", expression)
    if value is None or type(value) in (bool, int, str, torch.dtype):
        return type(value), value
    if type(value) is float:
        return float, value.hex()  # 0.0 is not -0.0
    if type(value) is not FakeTensor or value.layout is not torch.strided:
        return NotImplemented
    where = tuple(map(_key_part, (*value.shape, *value.stride(), value.storage_offset())))
    if NotImplemented in where:
        return NotImplemented
    return value.dtype, value.device, value.requires_grad, value.dim(), where
