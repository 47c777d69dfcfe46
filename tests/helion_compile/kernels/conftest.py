"""Kernel bodies as plain PyTorch: Helion's reference mode, with torch's own operations in the place of GPU assembly."""

import helion
import pytest
import torch

from helion_compile.kernels import (
    _activation_quant,
    _norm_quant,
    _quant,
    _rope,
    activation,
    activation_quant,
    norm_rope,
    normalization,
    quant,
    quantizing,
    rms_norm_quant,
    rope,
)


@pytest.fixture
def bodies(monkeypatch):
    """``bodies[rms_norm_quant](*args)`` runs the kernel's own code on CPU tensors, rounding steps included."""
    replaced = {
        "rounded": lambda values, dtype: values.to(dtype).float(),
        "divide_rows": lambda values, divisor: values / divisor,
        "reciprocal_of": torch.reciprocal,
        "root_of": torch.sqrt,
        "exp_of": torch.exp,
        "erf_of": torch.erf,
        "tanh_of": torch.tanh,
        "divided": torch.div,
        "multiplied": torch.mul,
        "ordered_bits": lambda values: (bits := values.view(torch.int32)) ^ ((bits >> 31) & 0x7FFFFFFF),
    }
    replaced |= dict.fromkeys(("let_next_begin", "wait_for_previous"), lambda: None)
    for module in (normalization, quantizing, activation, _norm_quant, _quant, _activation_quant, _rope):
        for name, function in replaced.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, function)
    return {
        kernel: helion.kernel(kernel.fn, ref_mode=helion.RefMode.EAGER, static_shapes=False, autotune_effort="none")
        for kernel in (rms_norm_quant, quant, activation_quant, rope, norm_rope)
    }
