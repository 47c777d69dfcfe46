# SPDX-License-Identifier: Apache-2.0
"""The kernels that ship with the package; importing this makes them findable by name.

``families`` has one kernel a file, ``device`` what several of them compute with.  The files lie a folder deeper than the
kernels' names because the code that Helion generates imports them: here, a kernel of the same name would be in the way.
"""

from helion_compile.compat import helion  # noqa: F401 (before the families, which fail without a sentence)
from helion_compile.kernels.families.activation_quant import activation_quant
from helion_compile.kernels.families.block_scaled_mm import block_scaled_mm
from helion_compile.kernels.families.concat_activation_quant import concat_activation_quant
from helion_compile.kernels.families.modulated_norm_quant import modulated_norm_quant
from helion_compile.kernels.families.norm_quant import norm_quant
from helion_compile.kernels.families.norm_rope import norm_rope
from helion_compile.kernels.families.quant import quant
from helion_compile.kernels.families.rope import rope
from helion_compile.kernels.families.scaled_mm import scaled_mm

__all__ = [
    "activation_quant",
    "block_scaled_mm",
    "concat_activation_quant",
    "modulated_norm_quant",
    "norm_rope",
    "quant",
    "norm_quant",
    "rope",
    "scaled_mm",
]
