# SPDX-License-Identifier: Apache-2.0
"""What Inductor puts into one kernel with what is around it, and what it only calls."""

from __future__ import annotations

from torch.fx import Node

from helion_compile.compat import HigherOrderOperator, OpOverload, fallbacks, lowerings
from helion_compile.fusions.operands import value_of
from helion_compile.passes.ir.values import shape_of

__all__ = ["lies_in_memory", "needs_copy", "writes_rows"]

_LIBRARY = frozenset(
    {
        "mm",
        "bmm",
        "addmm",
        "baddbmm",
        "_scaled_mm",
        "_scaled_mm_v2",
        "_int_mm",
        "_grouped_mm",
        "_scaled_grouped_mm",
        "convolution",
    }
)
_ATTENTION = "_scaled_dot_product_"
# Inductor joins these with what feeds them, but not with what reduces the rows that they give.
_SCATTERED = frozenset(
    {"index_put", "_unsafe_index_put", "index_add", "index_copy", "scatter", "scatter_add", "scatter_reduce"}
)
_REDUCED = frozenset({"sum", "mean", "prod", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean"})


def lies_in_memory(node: Node) -> bool:
    """Whether a node reads and writes memory as it lies, so that Inductor fuses nothing into it."""
    if node.op != "call_function" or isinstance(node.target, HigherOrderOperator):
        return True
    target = node.target
    if not isinstance(target, OpOverload):
        return False
    name = _name_of(target)
    if target.namespace not in ("aten", "prims") or name in _LIBRARY or name.startswith(_ATTENTION):
        return True
    return target in fallbacks or target not in lowerings


def writes_rows(node: Node) -> bool:
    """Whether a node's rows are in memory before a kernel can reduce them, whatever Inductor does."""
    return lies_in_memory(node) or (isinstance(node.target, OpOverload) and _name_of(node.target) in _SCATTERED | _REDUCED)


def _name_of(operator: OpOverload) -> str:
    return operator._schema.name.partition("::")[2]


def needs_copy(view: Node) -> bool:
    """Whether a reshape cannot be a view."""
    try:
        value_of(view.args[0]).view(shape_of(view))
    except (RuntimeError, ValueError):
        return True
    return False
