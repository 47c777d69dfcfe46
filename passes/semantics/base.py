"""What all semantic ops share."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SemanticOp", "text"]


@dataclass(frozen=True, kw_only=True)
class SemanticOp:
    """Base of all semantic ops: immutable, hashable, compared by attributes."""

    @property
    def name(self) -> str:
        """What texts call it."""
        return type(self).__name__


def text(name: str, *attributes: str) -> str:
    """ "RMSNorm(eps=1e-06)": an op as reports write it; empty attributes are left out."""
    return f"{name}({', '.join(filter(None, attributes))})"
