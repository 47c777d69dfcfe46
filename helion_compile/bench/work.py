# SPDX-License-Identifier: Apache-2.0
"""What a kernel has to do: the bytes that it moves and the operations of its ``reference``, without a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

from helion_compile.compat import TorchDispatchMode
from helion_compile.configs.case import Case
from helion_compile.definitions.spec import KernelSpec
from helion_compile.passes.ir.graph_listing import bytes_of

__all__ = ["Limits", "Work", "work_of", "work_of_case"]

aten = torch.ops.aten
_REDUCTIONS = {aten.amax, aten.aminmax, aten.max, aten.mean, aten.sum}
_MOVES = {aten.clone, torch.ops.prims.convert_element_type}  # tagged as if they computed


@dataclass(frozen=True)
class Work:
    """Of one call.

    Attributes:
        bytes: of every argument and result, each read or written once: what a report counts for the call's node.
        operations: additions, multiplications, comparisons and functions, each one, as ``reference`` writes them; two for
            each element of a GEMM's sum.
        products: how many of these are a GEMM's.
    """

    bytes: int
    operations: int
    products: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.bytes + other.bytes, self.operations + other.operations, self.products + other.products)


@dataclass(frozen=True)
class Limits:
    """What a GPU can do, measured.

    Attributes:
        copy_bandwidth: bytes a second, read and written.
        product_rate: operations a second of a large fp8 GEMM; None where none was measured.
    """

    copy_bandwidth: float
    product_rate: float | None = None

    def least(self, work: Work) -> tuple[float, str]:
        """The shortest time that ``work`` can take, in µs, and what limits it: "memory" or "arithmetic"."""
        memory = work.bytes / self.copy_bandwidth * 1e6
        arithmetic = work.products / self.product_rate * 1e6 if self.product_rate else 0.0
        return max((memory, "memory"), (arithmetic, "arithmetic"))


def work_of(kernel: KernelSpec, args: tuple[Any, ...]) -> Work:
    """The work of a call with these arguments, whose values are not looked at."""
    meta: dict[int, torch.Tensor] = {}  # one for each tensor: an argument that is passed twice is read once
    given = [
        meta.setdefault(id(arg), torch.empty_like(arg, device="meta")) if isinstance(arg, torch.Tensor) else arg
        for arg in args
    ]
    with _Counting() as counting:
        results = kernel.flatten_results(kernel.reference(*given))
    return Work(bytes_of((*meta.values(), *results)), counting.operations, counting.products)


def work_of_case(kernel: KernelSpec, case: Case) -> Work:
    """The work of a call with the arguments that the tuner makes for ``case``."""
    with torch.device("meta"):
        return work_of(kernel, kernel.tuning.make_inputs(case, torch.device("meta")))


class _Counting(TorchDispatchMode):
    operations = 0
    products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in flop_registry:
            count = flop_registry[packet](*args, **(kwargs or {}), out_val=out)
            self.products += count
        elif packet in _REDUCTIONS:
            count = args[0].numel()
        elif torch.Tag.pointwise in func.tags and packet not in _MOVES:
            count = out.numel()
        else:
            count = 0
        self.operations += count
        return out
