# SPDX-License-Identifier: Apache-2.0
"""Steps that patterns of activation functions share: what one value is beside another, products and sums with numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Node

from helion_compile.passes.ir.values import dtype_of, lossless, rounded
from helion_compile.passes.patterns.matcher import ADD, MUL, Matcher
from helion_compile.passes.semantics import ActivationFunction

__all__ = ["Found", "equal_numbers", "is_value", "plus_number", "plus_one", "times_number"]

# The function, the node of f(x), and x as the function reads it.
Found = tuple[ActivationFunction, Node, Node]


def is_value(value: Any, x: Node) -> bool:
    """Whether ``value`` is ``x``, perhaps cast once more: each use of ``x.float()`` may have a cast of its own."""
    return isinstance(value, Node) and dtype_of(value) == dtype_of(x) and lossless(value) is lossless(x)


def equal_numbers(found: float, expected: float) -> bool:
    return rounded(found, torch.float32) == rounded(expected, torch.float32)


def times_number(matcher: Matcher, value: Any) -> tuple[Node, float] | None:
    return matcher.with_number(value) if isinstance(value, Node) and value.target in MUL else None


def plus_number(matcher: Matcher, value: Any) -> tuple[Node, float] | None:
    added = isinstance(value, Node) and value.target in ADD and value.kwargs.get("alpha", 1) == 1
    return matcher.with_number(value) if added else None


def plus_one(matcher: Matcher, value: Node) -> Iterable[Node]:
    for user in value.users:
        found = plus_number(matcher, user)
        if found and found[1] == 1:
            yield user
