# SPDX-License-Identifier: Apache-2.0
"""Inductor as ``backend="helion"`` calls it: its compiler, the hook for our pass, and its error for graphs to train."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx

from helion_compile import compat
from helion_compile.compat import CustomGraphPass
from helion_compile.errors import GradientError
from helion_compile.frontend.options import Options
from helion_compile.graph.inline_reference import InlineReferences
from helion_compile.passes.rewrite.fusion_pass import FusionPass

__all__ = ["HOOK", "PassSequence", "chain_passes", "explain_gradient_errors", "is_training", "make_compiler"]

HOOK = "post_grad_custom_pre_pass"


def make_compiler(mode: str | None, options: Mapping[str, Any], **region: Any) -> Any:
    """The inductor backend as torch.compile makes it, with a shorter sentence for an unknown option."""
    try:
        return compat.CompileInductorWrapper(mode, options, None, **region)
    except RuntimeError:
        known = compat.list_inductor_options()
        for name in options:
            if name.replace("-", "_") not in known:
                ours = list(Options.__dataclass_fields__)
                near = difflib.get_close_matches(name, [*ours, *known], n=1)
                raise ValueError(
                    f"options has {name!r}, which is no option of backend='helion' ({', '.join(ours)}) and none of Inductor's "
                    f"(torch._inductor.list_options() lists them){f'; did you mean {near[0]!r}?' if near else '.'}"
                ) from None
        raise


def chain_passes(compiler: Any, fusion_pass: FusionPass, *, inline: bool = False) -> CustomGraphPass:
    """What stands in Inductor's hook: the pass that the user has put there, if any, and then ours.

    Args:
        inline: whether Inductor is to make code of the references of kernels that the device does not have.
    """
    users = compiler.config.get(HOOK, getattr(compat.inductor_config, HOOK))
    passes = [*([] if users is None else [users]), fusion_pass, *([InlineReferences()] if inline else [])]
    return fusion_pass if len(passes) == 1 else PassSequence(passes)


@dataclass
class PassSequence(CustomGraphPass):
    """Several post-grad passes as one."""

    passes: list[Callable[[torch.fx.Graph], None]] = field(default_factory=list)

    def __call__(self, graph: torch.fx.Graph) -> None:
        for each in self.passes:
            each(graph)

    def __deepcopy__(self, memo: dict) -> PassSequence:
        return self  # AOTInductor copies its options; what the passes record is asked of these

    def uuid(self) -> Any | None:
        """None, which keeps the graph out of Inductor's cache, if one of the passes cannot say what it is."""
        ids = [each.uuid() if isinstance(each, CustomGraphPass) else None for each in self.passes]
        return None if None in ids else repr(ids)


def is_training(inputs: Sequence[Any]) -> bool:
    """Whether a graph with these inputs is compiled as a forward/backward pair."""
    return torch.is_grad_enabled() and any(isinstance(each, torch.Tensor) and each.requires_grad for each in inputs)


@contextlib.contextmanager
def explain_gradient_errors(gm: torch.fx.GraphModule, inputs: Sequence[Any]) -> Iterator[None]:
    """Within it, an operation without derivative is an error that says why one is asked for.

    Products in fp8 have none, and a model whose norms have weights asks for it unless grad mode is off.
    """
    try:
        yield
    except RuntimeError as error:
        if not (is_training(inputs) and str(error).startswith("derivative for ")):
            raise
        placeholders = [node.name for node in gm.graph.nodes if node.op == "placeholder"]
        needing = [n for n, each in zip(placeholders, inputs, strict=True) if getattr(each, "requires_grad", False)]
        raise GradientError(
            f"{error}, and this graph is compiled for training, since grad mode is on and {len(needing)} of its inputs "
            f"require grad ({needing[0]} first). Call the model under torch.no_grad() or torch.inference_mode(), or call "
            f"model.requires_grad_(False) before."
        ) from error
