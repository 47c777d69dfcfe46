# SPDX-License-Identifier: Apache-2.0
"""How real models write each semantic op.

A pattern is a module, or what a table of operators makes (``custom_ops.operator_table``).  It has a ``NAME`` for reports, the
``ANCHORS`` (targets, or names of operators that need not be there) at which matching begins, and ``match_at(anchor)``: a
``Match``, None when the anchor belongs to something else, or ``MatchFailed`` with the reason.  ``PATTERNS`` lists them in the
order in which ops feed one another.
"""

from helion_compile.passes.patterns.aten import activation, concat, matmul, modulate, norm, quantize, rope
from helion_compile.passes.patterns.custom_ops import library_table, vllm_table

PATTERNS = (
    *(norm, vllm_table.norm, modulate, activation, vllm_table.activation, concat, rope, vllm_table.rope),
    *(quantize, library_table.quantize, vllm_table.quantize, matmul, library_table.matmul, vllm_table.matmul),
)
