# SPDX-License-Identifier: Apache-2.0
"""Why something is not fused, as a value: from the place that finds it out to the edge that prints it."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass
from string import Formatter
from typing import Any

import torch
from torch.fx import Node

from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.ir.values import describe, dtype_name, format_target

__all__ = ["Detail", "Refusal", "RefusalKind"]


class RefusalKind(enum.Enum):
    """What is in the way."""

    # of a candidate that is no match
    PATTERN = "pattern"  # another node than the pattern has: the remedy is what was expected
    FUNCTION = "function"  # it computes another function than a semantic op says
    DTYPE = "dtype"  # a dtype, or a rounding to one
    SHAPE = "shape"  # a shape, or how values lie in memory
    CONSTANT = "constant"  # a number that is known at run time only, or has another value
    READER = "reader"  # something else reads a value that would be gone, or be another one
    OPERATOR = "operator"  # what an operator of a library computes
    UNKNOWN_OPERATOR = "unknown operator"  # an operator whose schema no tested version of its library has
    # of a chain
    OP = "op"  # an attribute of a semantic op, which the kernel does not compute
    NUMERICS = "numerics"  # the kernel rounds in another way than numerics="exact" allows
    KERNEL = "kernel"  # the kernel's own support check
    INDUCTOR = "inductor"  # Inductor puts the chain into a kernel that runs anyway
    INSERTION_POINT = "insertion point"  # no place in the graph has all inputs, unchanged
    VERIFY = "verify"  # it was run, and its results are outside the contract
    UNPROFITABLE = "unprofitable"  # possible, and not faster: the chain is kept
    UNTUNED = "untuned"  # possible, and not known to be faster: the chain is kept
    # of a match that no chain has
    NO_FUSION = "no fusion"  # no fusion in use takes this op
    NO_CHAIN = "no chain"  # none takes it together with what is beside it
    REFUSED = "refused"  # those that take it refused


@dataclass(frozen=True)
class Detail:
    """A value in a refusal.  ``alike`` is equal for refusals that reports tell once: it leaves out names of nodes."""

    name: str
    text: str
    alike: str

    @classmethod
    def of(cls, name: str, value: Any) -> Detail:
        return cls(name, *_texts(value))


@dataclass(frozen=True)
class Refusal:
    """One "no".

    ``found_form`` and ``remedy_form`` are texts with fields in braces that ``details`` fills; :attr:`found` and
    :attr:`remedy` are the texts to print.  A matcher and a fusion make the first five attributes, the pass the others.
    """

    kind: RefusalKind
    node: str  # at which matching stopped, or the chain's last; a name in the graph before
    found_form: str
    remedy_form: str
    details: tuple[Detail, ...] = ()
    candidate: str = ""  # "norm", "quantize", "matmul", or the name of the fusion that would have taken it
    location: Location = Location()
    matched: tuple[str, ...] = ()  # the steps that were found, in the order in which values flow
    missing: tuple[str, ...] = ()  # and those that were not, or were not looked for any more

    def __post_init__(self) -> None:
        if not isinstance(self.kind, RefusalKind):
            raise TypeError(f"a refusal is of a RefusalKind, such as RefusalKind.KERNEL, not of {self.kind!r:.80}")
        if not all(isinstance(form, str) for form in (self.found_form, self.remedy_form)):
            raise TypeError(f"a refusal says in texts what was found and what would fuse, not {self.found_form!r:.80}")
        filled = {each.name for each in self.details}
        for form in (self.found_form, self.remedy_form):
            fields = {field for _, field, _, _ in Formatter().parse(form) if field is not None}
            if not form or not fields <= filled:
                raise ValueError(f"a refusal says what was found and what would fuse, found {form!r} with {sorted(filled)}")

    @classmethod
    def of(cls, kind: RefusalKind, node: Node, found: str, remedy: str, /, **details: Any) -> Refusal:
        """The refusal of what is at ``node``.

        Args:
            found: what is in the way.
            remedy: what would fuse.
            details: what stands for the names in braces: nodes, dtypes, shapes, locations, numbers, texts.
        """
        if not isinstance(node, Node):
            raise TypeError(f"a refusal is of what is at a node of the graph, not at {node!r:.80}")
        made = tuple(value if isinstance(value, Detail) else Detail.of(name, value) for name, value in details.items())
        return cls(kind, node.name, found, remedy, made, location=Location.of(node))

    @property
    def found(self) -> str:
        """What is in the way."""
        return self._filled(self.found_form)

    @property
    def remedy(self) -> str:
        """What would make it fuse."""
        return self._filled(self.remedy_form)

    @property
    def near(self) -> str:
        """ "matched 5 of 6 steps"; empty where no steps were counted."""
        steps = len(self.matched) + len(self.missing)
        return f"matched {len(self.matched)} of {steps} steps" if steps else ""

    @property
    def group(self) -> tuple[Any, ...]:
        """Equal for refusals that differ in the names of nodes only."""
        return self.candidate, self.kind, self.found_form, self.remedy_form, tuple(each.alike for each in self.details)

    def __str__(self) -> str:
        if self.kind is RefusalKind.PATTERN:
            return f"expected {self.remedy}, found {self.found}"
        if self.kind is RefusalKind.KERNEL:
            return self.found  # a sentence of the kernel's author, which says all
        return f"{self.found}; {self.remedy}"

    def _filled(self, form: str) -> str:
        return form.format(**{each.name: each.text for each in self.details})


def _texts(value: Any) -> tuple[str, str]:
    """A value as texts name it, and without names of nodes."""
    if isinstance(value, Node):
        calls = value.op == "call_function"
        return describe(value), format_target(value.target) if calls else value.op
    if isinstance(value, Location):
        return str(value), value.source
    if isinstance(value, torch.dtype):
        return (dtype_name(value),) * 2
    if isinstance(value, enum.Enum):
        return (str(value.value),) * 2
    if isinstance(value, float):
        return (f"{value:g}",) * 2
    if isinstance(value, tuple):  # sizes, bounds, arguments of a node
        items = [each.name if isinstance(each, Node) else _texts(each)[0] for each in value]
        return f"[{', '.join(items)}]", f"[{', '.join(_texts(each)[1] for each in value)}]"
    if isinstance(value, Collection) and not isinstance(value, str):  # several things of a kind
        both = list(map(_texts, value))
        return ", ".join(text for text, _ in both) or "nothing", ", ".join(alike for _, alike in both)
    return (str(value),) * 2
