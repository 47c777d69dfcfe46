"""The kernels that ship with the package, one family a file; importing this makes them findable by name."""

from helion_compile.kernels.norm_quant import rms_norm_quant
from helion_compile.kernels.quant import quant

__all__ = ["quant", "rms_norm_quant"]
