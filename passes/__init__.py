# SPDX-License-Identifier: Apache-2.0
"""What a graph computes, and rewriting it by that.  Needs torch only.

::

    from helion_compile.passes import Fusion, FusionPass, Norm, Quantize

    fused = Fusion("norm_quantize", (Norm, Quantize), build)         # a chain of semantic ops, and what to put there
    torch._inductor.config.post_grad_custom_pre_pass = FusionPass([fused])

``semantics`` has the ops, ``patterns`` how models write them, ``match`` finds matches and chains of them in a graph,
``rewrite`` replaces chains by what fusions build, ``account`` records what was done and why not more, ``ir`` has what is known
of nodes and values.
"""

from helion_compile.passes.account.records import GraphRecord, Site
from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.rewrite.fusion import Chain, Emit, Fusion
from helion_compile.passes.rewrite.fusion_pass import FusionError, FusionPass
from helion_compile.passes.semantics import (
    Activation,
    Concat,
    Matmul,
    Modulate,
    Norm,
    NormRounding,
    Quantize,
    Rope,
    ScaleUse,
    SemanticOp,
)

__all__ = [
    "Activation",
    "Chain",
    "Concat",
    "Emit",
    "Fusion",
    "FusionError",
    "FusionPass",
    "GraphRecord",
    "Matmul",
    "Modulate",
    "SemanticOp",
    "Norm",
    "NormRounding",
    "Quantize",
    "Refusal",
    "RefusalKind",
    "Rope",
    "ScaleUse",
    "Site",
]

if __name__ == "passes":  # a checkout on PYTHONPATH: a user's own folder `passes` without an __init__.py must not be hidden
    from pkgutil import extend_path

    __path__ = extend_path([], __name__)
