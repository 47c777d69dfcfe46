"""What all meanings share."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SemanticOp", "text"]


@dataclass(frozen=True, kw_only=True)
class SemanticOp:
    """Base of all meanings: immutable, hashable, compared by attributes."""


def text(name: str, *facts: str) -> str:
    """ "Norm(rms, eps=1e-06)": a meaning as reports write it; empty facts are left out."""
    return f"{name}({', '.join(filter(None, facts))})"
