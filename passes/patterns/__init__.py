"""How real models write each meaning.

A spelling is a module with a ``NAME`` for reports, the ``ANCHORS`` (targets, or names of operators that need not be there)
at which a walk begins, and ``read(anchor)``: a Region, None when the anchor belongs to something else, or ``Unread`` with
the reason.
``SPELLINGS`` lists them in the order in which meanings feed one another.
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

SPELLINGS = (
    *(norm, vllm_norm, activation, vllm_activation, rope, vllm_rope),
    *(quantize, library_quantize, vllm_quantize, matmul, library_matmul, vllm_matmul),
)
