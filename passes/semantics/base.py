# SPDX-License-Identifier: Apache-2.0
"""What all semantic ops share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

__all__ = ["SemanticOp", "text"]


@dataclass(frozen=True, kw_only=True)
class SemanticOp:
    """Base of all semantic ops: immutable, hashable, compared by attributes.

    ``ROWS`` names inputs [..., K] of which only K and the order of rows count: in another shape they give the same results,
    in that shape.
    """

    ROWS: ClassVar[frozenset[str]] = frozenset()

    @property
    def name(self) -> str:
        """What texts call it."""
        return type(self).__name__


def text(name: str, *attributes: str) -> str:
    """ "RMSNorm(eps=1e-06)": an op as reports write it; empty attributes are left out."""
    return f"{name}({', '.join(filter(None, attributes))})"
