"""How real models write each semantic op.

A pattern is a module with a ``NAME`` for reports, the ``ANCHORS`` (targets, or names of operators that need not be there) at
which matching begins, and ``match_at(anchor)``: a ``Match``, None when the anchor belongs to something else, or
``MatchFailed`` with the reason.  ``PATTERNS`` lists them in the order in which ops feed one another.
"""

from helion_compile.passes.patterns.aten import activation, matmul, norm, quantize, rope
from helion_compile.passes.patterns.custom_ops import (
    library_matmul,
    library_quantize,
    vllm_activation,
    vllm_matmul,
    vllm_norm,
    vllm_quantize,
    vllm_rope,
)

PATTERNS = (
    *(norm, vllm_norm, activation, vllm_activation, rope, vllm_rope),
    *(quantize, library_quantize, vllm_quantize, matmul, library_matmul, vllm_matmul),
)
