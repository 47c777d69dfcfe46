# SPDX-License-Identifier: Apache-2.0
"""Inductor: what a ``helion_kernel`` node becomes in code without Python, as AOTInductor and ``cpp_wrapper=True`` make it.

| the node | becomes |
|---|---|
| on a device without the kernel, or of empty tensors | the operations of its reference (``reference_lowering.py``) |
| of known sizes for which the table names a library | the operations of that fallback |
| otherwise | the Triton kernels that it launches (``triton_lowering.py``), with a config for each part of a range of sizes |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from helion_compile.definitions import registry
from helion_compile.errors import PackageError
from helion_compile.graph.reference_lowering import trace_function
from helion_compile.graph.size_choice import choose_parts, find_switch, list_parts
from helion_compile.graph.triton_lowering import lower_parts, record_part
from helion_compile.passes.ir.source_location import Location
from helion_compile.runtime import reference

if TYPE_CHECKING:
    from helion_compile.definitions.spec import KernelSpec

__all__ = ["check_graph", "choose_function", "lower_launches"]


def check_graph(graph: Graph) -> list[str]:
    """What is to be known of the graph's kernels: what is taken for a range of sizes, and where the table has more.

    Raises:
        PackageError: a node cannot be lowered without Python; found in seconds.
    """
    notes = []
    for node in graph.find_nodes(op="call_function", target=torch.ops.higher_order.helion_kernel):
        kernel = registry.find_kernel(node.kwargs["kernel"])
        try:
            if function := choose_function(kernel, node):
                trace_function(node, kernel, function)
            else:
                fakes = _fake_args(node)
                switch = find_switch(fakes)
                for part in choose_parts(kernel, fakes, switch):
                    record_part(kernel, node, switch, part)
        except PackageError as error:
            raise PackageError(f"{error} It is called at {Location.of(node)}.") from None
        notes += _note(kernel, node)
    return notes


def _note(kernel: KernelSpec, node: Node) -> list[str]:
    fakes = _fake_args(node)
    if reference.lacks_kernel(fakes) or (switch := find_switch(fakes)) is None:
        return []
    wanted, taken = list_parts(kernel, fakes, switch), choose_parts(kernel, fakes, switch)
    what = f"the {taken[0].fallback}'s code" if taken[0].fallback else f"{len(taken)} configs"
    if len(wanted) == len(taken):
        return [f"{kernel.short_name} at {Location.of(node)}: {what} for all sizes"]
    has = ", ".join(f"{part.fallback or 'a config'} from {part.low}" for part in wanted)
    return [f"{kernel.short_name} at {Location.of(node)}: {what} for all sizes, where the table has {has}"]


def choose_function(kernel: KernelSpec, node: Node) -> Callable[..., Any] | None:
    """The function in torch whose operations stand for the node; None where kernels are launched."""
    args = _fake_args(node)
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
    if reference.lacks_kernel(args) or any(statically_known_true(tensor.numel() == 0) for tensor in tensors):
        return kernel.reference
    if kernel.check_supported(*args):
        return kernel.reference
    parts = choose_parts(kernel, args, find_switch(args))
    if all(part.fallback for part in parts):
        return _fallback(kernel, parts[-1].fallback)
    return None


def lower_launches(
    kernel: KernelSpec, node: Node, args: Sequence[Any], outputs: Sequence[Any], written: Sequence[Any]
) -> None:
    """Launch the kernel, which fills ``outputs``.

    Args:
        args, outputs: Inductor's values.
        written: those of them that the kernel writes to.
    """
    fakes = _fake_args(node)
    switch = find_switch(fakes)
    parts = choose_parts(kernel, fakes, switch)
    lower_parts([(part, record_part(kernel, node, switch, part)) for part in parts], switch, args, outputs, written)


def _fake_args(node: Node) -> tuple[Any, ...]:
    return tuple(argument.meta["val"] if isinstance(argument, Node) else argument for argument in node.args)


def _fallback(kernel: KernelSpec, name: str | None) -> Callable[..., Any]:
    function = kernel.fallbacks.get(name or "")
    if function is None:
        raise PackageError(f"{kernel.short_name}: a config names a fallback {name!r}, and fallbacks= has none such.")
    return lambda *args: function(*args, out=None)
