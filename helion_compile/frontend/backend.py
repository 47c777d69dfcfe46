# SPDX-License-Identifier: Apache-2.0
"""What ``torch.compile(…, backend="helion")`` finds by its name: the backend, imported when it is first called.

Torch looks a backend up without a lock: several threads that compile first all load the entry point, and each but one of them
would fail with ``duplicate name: helion``.  So this module imports nothing, and takes the registering over from torch.

Private interfaces (``compat``): ``_BACKENDS`` and ``_COMPILER_FNS`` of ``torch._dynamo.backends.registry``.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch.fx

__all__ = ["helion"]

_lock = threading.Lock()


def helion(
    gm: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    **region: Any,
) -> Callable[..., Any]:
    """Compile a traced graph; what ``torch.compile(model, backend="helion")`` calls.

    Args:
        mode: one of torch.compile's modes, such as "reduce-overhead".
        options: entries of :class:`Options`, and any of Inductor's own.
        **region: ``name=``, in versions of torch whose ``torch.compile`` takes one.

    Raises:
        ValueError, TypeError: an option that neither we nor Inductor know, or one with a value it cannot have.
        RuntimeError: an unknown mode, or a value that Inductor does not take.
        GradientError: the graph is compiled for training, and one of its operations has no derivative.
    """
    from helion_compile.frontend.compile_graph import compile_graph  # takes seconds: Inductor, Helion and Triton

    return compile_graph(gm, example_inputs, mode=mode, options=options, **region)


def reset() -> None:
    """Called by torch.compiler.reset(): drop reports, and recorded CUDA graphs, as the inductor backend does."""
    from helion_compile.frontend.compile_graph import reset

    reset()


helion.reset = reset  # type: ignore[attr-defined]


def __getattr__(name: str) -> Any:
    """The entry point.

    While torch looks it up it is registered here, by one thread, and None for torch: what registers no backend.
    """
    if name != "entry_point":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    registry = sys.modules.get("torch._dynamo.backends.registry")
    with _lock:
        compilers = getattr(registry, "_COMPILER_FNS", None)
        if registry is None or compilers is None or helion.__name__ not in getattr(registry, "_BACKENDS", ()):
            return helion  # nobody is looking it up
        if helion.__name__ not in compilers:
            registry.register_backend(helion)
    return None
