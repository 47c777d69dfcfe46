"""What a graph means, and rewriting it by meaning.  Needs torch only.

::

    from passes import Fusion, FusionPass, Norm, Quantize

    fused = Fusion("norm_quantize", (Norm, Quantize), build)         # a chain of meanings, and what to put there
    torch._inductor.config.post_grad_custom_pre_pass = FusionPass([fused])

``meanings`` says what stretches of a graph compute, ``spellings`` how models write them, ``reading`` finds them in a
graph, ``fusion`` and ``chain`` are what a fusion is written against, ``placement``, ``emitting`` and ``edits`` put its
nodes in place, ``records`` says what was done and why not more.
"""

from helion_compile.passes.account.records import GraphRecord, Refusal, Site
from helion_compile.passes.rewrite.fusion import Chain, Emit, Fusion
from helion_compile.passes.rewrite.fusion_pass import FusionError, FusionPass
from helion_compile.passes.semantics import Activation, Matmul, Norm, NormRounding, Quantize, Rope, ScaleUse, SemanticOp

__all__ = [
    "Activation",
    "Chain",
    "Emit",
    "Fusion",
    "FusionError",
    "FusionPass",
    "GraphRecord",
    "Matmul",
    "SemanticOp",
    "Norm",
    "NormRounding",
    "Quantize",
    "Refusal",
    "Rope",
    "ScaleUse",
    "Site",
]

if __name__ == "passes":  # a checkout on PYTHONPATH: a user's own folder `passes` without an __init__.py must not be hidden
    from pkgutil import extend_path

    __path__ = extend_path([], __name__)
