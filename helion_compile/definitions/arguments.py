# SPDX-License-Identifier: Apache-2.0
"""Arguments that no kernel takes, whatever it computes: containers, tensors that are no plain memory, wanted gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import forward_ad

from helion_compile.compat import is_batched_tensor, is_traceable_wrapper_subclass
from helion_compile.errors import GradientError, KernelArgumentError

if TYPE_CHECKING:
    from helion_compile.definitions.spec import KernelSpec

__all__ = ["check_no_grad", "check_types"]

_TYPES = (torch.Tensor, bool, int, float, str, torch.dtype, torch.SymInt, torch.SymFloat, torch.SymBool)


def check_types(kernel: KernelSpec, args: tuple[Any, ...]) -> None:
    """Raise KernelArgumentError for an argument of a type that cannot enter a graph."""
    for name, arg in zip(kernel.signature.parameters, args, strict=True):
        if arg is not None and not isinstance(arg, _TYPES):
            raise KernelArgumentError(
                f"{kernel.short_name}: argument {name!r} is a {type(arg).__name__}; a kernel takes tensors, None, numbers, "
                f"strings and dtypes. Pass the elements of a container one by one."
            )
        if isinstance(arg, torch.Tensor):
            _check_plain(kernel, name, arg)


def _check_plain(kernel: KernelSpec, name: str, tensor: torch.Tensor) -> None:
    if is_batched_tensor(tensor):
        found, instead = "inside torch.vmap", "Call the kernel outside of it, on the whole batch"
    elif is_traceable_wrapper_subclass(tensor):
        kind = type(tensor).__name__
        found, instead = f"a {kind}, which wraps other tensors", "Pass the plain tensors that it is made of"
    elif tensor.layout is not torch.strided:
        found, instead = f"of layout {tensor.layout}", "Pass a strided tensor, such as its .to_dense()"
    elif tensor.is_nested or tensor.is_quantized:
        found = "a nested tensor" if tensor.is_nested else "a quantized tensor of torch.ao"
        instead = "Pass the plain tensors that it is made of"
    elif tensor.is_neg() or tensor.is_conj():
        found, instead = "negated or conjugated lazily", "Pass its .resolve_conj().resolve_neg()"
    else:
        return
    raise KernelArgumentError(f"{kernel.short_name}: argument {name!r} is {found}; a kernel reads plain memory. {instead}.")


def check_no_grad(kernel: KernelSpec, args: tuple[Any, ...]) -> None:
    """Raise GradientError where autograd would otherwise give a silent zero gradient."""
    if forward_ad._current_level >= 0:
        for name, arg in zip(kernel.signature.parameters, args, strict=True):
            if isinstance(arg, torch.Tensor) and forward_ad.unpack_dual(arg).tangent is not None:
                raise GradientError(
                    f"{kernel.short_name} was called with a tangent of forward-mode AD on {name!r}, and a Helion kernel has "
                    f"no derivative. Pass forward_ad.unpack_dual({name}).primal."
                )
    if not torch.is_grad_enabled():
        return
    for name, arg in zip(kernel.signature.parameters, args, strict=True):
        if isinstance(arg, torch.Tensor) and arg.requires_grad:
            raise GradientError(
                f"{kernel.short_name} was called with {name!r} requiring grad, and a Helion kernel has no backward. Call it "
                f"under torch.no_grad() or torch.inference_mode(), pass {name}.detach(), or train without it."
            )
