# SPDX-License-Identifier: Apache-2.0
"""Kernel bodies as plain PyTorch: Helion's reference mode, with torch's own operations in the place of GPU assembly."""

from collections import Counter, defaultdict
from unittest import mock

import helion
import helion.language as hl
import pytest
import torch

from helion_compile import kernels
from helion_compile.kernels import families
from helion_compile.kernels.device import activation, modulate, normalize, quantize, split_k
from helion_compile.kernels.device import rope as rope_device

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


@pytest.fixture
def bodies(monkeypatch):
    """``bodies[norm_quant](*args)`` runs the kernel's own code on CPU tensors, rounding steps included."""
    replaced = {
        "round_to": lambda values, dtype: values.to(dtype).float(),
        "divide_rows": lambda values, divisor: values / divisor,
        "compute_reciprocal": torch.reciprocal,
        "compute_sqrt": torch.sqrt,
        "compute_exp": torch.exp,
        "compute_erf": torch.erf,
        "compute_tanh": torch.tanh,
        "divide": torch.div,
        "multiply": torch.mul,
        "ordered_bits": lambda values: (bits := values.view(torch.int32)) ^ ((bits >> 31) & 0x7FFFFFFF),
    }
    replaced |= dict.fromkeys(("launch_dependents", "grid_dependency_wait"), lambda: None)
    for module in (normalize, quantize, activation, modulate, rope_device, *vars(families).values()):
        for name, function in replaced.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, function)
    monkeypatch.setattr(hl, "inline_triton", _Slices())
    return {
        kernel: _saturating(
            helion.kernel(kernel.fn, ref_mode=helion.RefMode.EAGER, static_shapes=False, autotune_effort="none")
        )
        for kernel in (getattr(kernels, name) for name in kernels.__all__)
    }


class _Slices:
    """The texts of ``split_k`` as Python: the programs of a tile run one after the other, and the last one collects."""

    def __init__(self):
        self.drawn, self.sent = Counter(), defaultdict(list)

    def __call__(self, text, args, output_like=None):
        if text is split_k.DRAW_TICKET:
            self.drawn[args["tile"]] += 1
            return self.drawn[args["tile"]] - 1
        if text is split_k.IS_LAST:
            return int(args["ticket"] == args["split"] - 1)
        if text is split_k.SEND:
            self.sent[self.place(args)].append(args["part"])
        if text is split_k.COLLECT:
            self.drawn[args["tile"]] = 0
            return sum(self.sent.pop(self.place(args), []), args["part"])

    def place(self, args):
        return int(args["rows"][0]), int(args["columns"][0])


def _saturating(body):
    """``body`` with casts to fp8 as Triton's are, on which it relies; those of torch 2.11 make NaN of what is too large."""
    cast = torch.Tensor.to

    def to(values, *args, **options):
        if args and args[0] in FP8:
            largest = torch.finfo(args[0]).max
            values = values.clamp(-largest, largest)
        return cast(values, *args, **options)

    def run(*args):
        with mock.patch.object(torch.Tensor, "to", to):
            return body(*args)

    return run
