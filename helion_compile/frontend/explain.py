# SPDX-License-Identifier: Apache-2.0
"""``explain``: what ``backend="helion"`` does to a model, and why not more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from helion_compile.configs.gpu import Gpu, assume_gpu
from helion_compile.errors import check_type
from helion_compile.frontend.capture import inspect_model
from helion_compile.reports import FusedSite, GraphReport, Report
from helion_compile.reports.identity import identify

__all__ = ["FusedSite", "GraphReport", "Report", "explain"]


def explain(
    model: Callable[..., Any],
    *args: Any,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    dynamic: bool | None = None,
    verify: bool = False,
    gpu: str | Gpu | None = None,
    **kwargs: Any,
) -> Report:
    """What ``torch.compile(model, backend="helion")`` does to ``model`` when it is called with these arguments.

    The model is traced and rewritten as the backend would, and run once without generating code.  Call it the way you call
    the compiled model: under ``torch.no_grad()`` for inference, since graphs traced for training keep intermediate values
    that cannot be fused away.  What is compiled already stays as it is; of functions behind a graph break Dynamo keeps one
    entry more, until ``torch.compiler.reset()``.

    Args:
        model: a module or function; of a compiled one, what was compiled.
        *args, **kwargs: its arguments.
        mode, options, dynamic: as for ``torch.compile``.
        verify: run each fused site against what it replaces, on the values that this call gives it, and report the
            difference (``FusedSite.verified``).  Nothing is put back; ``options={"verify": True}`` does that.
        gpu: choose and tell configs as on that GPU, such as ``"h200"``, wherever the model is; times are those of its tables.

    Raises:
        TypeError: ``model`` cannot be called, or is a class.
        ValueError, TypeError: an option has a value it cannot have, there are both ``mode`` and ``options``, or no GPU is
            called ``gpu``.
    """
    if isinstance(model, type):
        raise TypeError(f"explain() takes a module or a function; got the class {model.__name__}: give one of its objects.")
    if not callable(model):
        raise TypeError(f"explain() takes a module or a function and its arguments; got a {type(model).__name__}.")
    for name, value, allowed in (("dynamic", dynamic, (True, False, None)), ("verify", verify, (True, False))):
        if not any(value is each for each in allowed):
            raise TypeError(f"explain() was given {name}={value!r}; it is one of {', '.join(map(str, allowed))}.")
    if mode is not None and options is not None:
        raise ValueError(
            f"explain() was given mode={mode!r} and options; torch.compile takes one of them. What a mode means is an option "
            f"too: {{'triton.cudagraphs': True}} is mode='reduce-overhead'."
        )
    model = getattr(model, "_torchdynamo_orig_callable", getattr(model, "_orig_mod", model))
    asked = Gpu.named(gpu) if isinstance(gpu, str) else gpu
    check_type("explain(gpu=…)", asked, (Gpu, type(None)), "the name of a GPU, such as 'h200', or None")
    with assume_gpu(asked):
        found = inspect_model(model, args, kwargs, mode=mode, options=options, dynamic=dynamic, verify=verify)
    return Report(tuple(inspected.report for inspected in found), identity=identify(model, (args, kwargs), asked))
