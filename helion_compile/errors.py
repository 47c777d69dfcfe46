"""Errors a user can meet, each a subclass of the built-in error it refines; and how they quote what they were given."""

from __future__ import annotations

__all__ = [
    "DuplicateKernelError",
    "GradientError",
    "KernelArgumentError",
    "UndeclaredMutationError",
    "UnknownKernelError",
    "UnpreparedCaptureError",
    "truncate",
]


class KernelArgumentError(TypeError):
    """A kernel was called with arguments that its signature or its ``check_supported`` does not allow."""


class DuplicateKernelError(ValueError):
    """Two different kernels were given one name."""


class UnknownKernelError(LookupError):
    """A compiled graph names a kernel that this process has not defined, or has defined differently."""


class GradientError(RuntimeError):
    """A kernel without a backward was called on tensors that require grad."""


class UndeclaredMutationError(RuntimeError):
    """A kernel wrote to an argument that ``mutates`` does not name."""


class UnpreparedCaptureError(RuntimeError):
    """A kernel would have had to be compiled while a CUDA graph is being captured."""


def truncate(value: object, limit: int = 80) -> str:
    """``value`` as one short line of printable ASCII, for messages that quote what a file or a caller said."""
    try:
        text = ascii(value)
    except (RecursionError, ValueError):  # nested too deeply, or a number of more digits than Python writes
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= limit else f"{text[:limit]}…"
