# SPDX-License-Identifier: Apache-2.0
"""Inserting the nodes of a replacement."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from helion_compile.passes.compat import FakeTensor, detect_fake_mode
from helion_compile.passes.ir.fake_results import compute_fake
from helion_compile.passes.ir.values import CLONES, VIEWS, describe, known_equal, same_shape, shape_of, tensor_text
from helion_compile.passes.match.chain import Chain
from helion_compile.passes.rewrite.edits import Edits

__all__ = ["Emitter"]

aten = torch.ops.aten

_UNNAMED = VIEWS | CLONES | {aten.sym_size.int}


class Emitter:
    """The ``Emit`` that a fusion's ``build`` is given: nodes one behind the other, from ``after`` on.

    All that runs something is called ``name``.

    Args:
        views: the views that were added to the graph so far.  One that stands before this place is not added again: all layers
            of a model read the same views of their tables of angles.
    """

    def __init__(self, edits: Edits, chain: Chain, after: Node, name: str, views: dict[Any, Node] | None = None):
        self.nodes: list[Node] = []
        self._edits = edits
        self._chain = chain
        self._after = after
        self._name = name
        self._views = {} if views is None else views
        values = [node.meta["val"] for node in chain.inputs.values()]
        fakes = [value for value in values if isinstance(value, FakeTensor)]
        self._fake_mode = fakes[0].fake_mode if fakes else detect_fake_mode(values)

    def __call__(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
        if not callable(target):
            raise TypeError(f"emit was given {target!r:.80} to call; give an operator, such as torch.ops.aten.mul.Tensor")
        view = _view_key(target, args, kwargs)
        if view is not None and (known := self._views.get(view)) is not None and not self._after < known:
            return known
        name = None if target in _UNNAMED else self._name
        node = self._edits.insert(self._after, target, args, kwargs, name)
        self.nodes.append(node)
        self._after = node
        for argument in node.all_input_nodes:
            if argument in self._chain.nodes or node < argument:
                raise ValueError(
                    f"{node.name} reads {describe(argument)}, which the chain computes or which stands behind it; "
                    f"inputs of the chain and nodes that emit returned can be read: {', '.join(self._chain.inputs)}"
                )
        for key in ("stack_trace", "nn_module_stack"):
            if key in self._chain.anchor.meta:
                node.meta[key] = self._chain.anchor.meta[key]
        fake_args, fake_kwargs = map_arg((args, kwargs), lambda argument: argument.meta["val"])
        node.meta["val"] = compute_fake(self._fake_mode, target, fake_args, fake_kwargs)
        if view is not None:
            self._views[view] = node
        return node

    def in_place_of(self, original: Node, new: Node) -> Node:
        """``new`` with the shape of the output that it replaces.

        Raises:
            ValueError: the dtypes or the numbers of elements differ.
        """
        wanted, given = original.meta["val"], new.meta.get("val")
        if (
            not isinstance(given, torch.Tensor)
            or given.dtype != wanted.dtype
            or given.device != wanted.device
            or not known_equal(given.numel(), wanted.numel())
        ):
            found = f"{tensor_text(new)} on {given.device}" if isinstance(given, torch.Tensor) else repr(given)
            raise ValueError(
                f"{new.name} cannot replace {original.name}: expected {tensor_text(original)} on {wanted.device} "
                f"up to a reshape, found {found}"
            )
        if same_shape(given.shape, wanted.shape):
            return new
        return self(aten.reshape.default, new, [self._size(size) for size in wanted.shape])

    def _size(self, size: int | torch.SymInt) -> int | Node:
        """A size as an argument: a dynamic one is read off an input of the chain that has it."""
        if isinstance(size, int):
            return size
        for node in self._chain.inputs.values():
            for dim, found in enumerate(shape_of(node) or ()):
                if known_equal(found, size):
                    return self(aten.sym_size.int, node, dim)
        return -1


def _view_key(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any | None:
    """What equal views have equal; None for what is no view, or an element of a tuple, which each site takes for itself."""
    if target not in VIEWS or target is operator.getitem or kwargs:
        return None
    return target, *(tuple(each) if isinstance(each, list) else each for each in args)
