# SPDX-License-Identifier: Apache-2.0
"""Acting as if a CPU were a GPU, for what is chosen by the GPU and its tables."""

from contextvars import ContextVar

from helion_compile.configs import gpu as gpus
from helion_compile.configs.gpu import Gpu
from helion_compile.fusions import scaled_mm

H200, B200 = Gpu("NVIDIA H200", (9, 0)), Gpu("NVIDIA B200", (10, 0))


def act_as(monkeypatch, gpu):
    """Tensors on the CPU count as lying on ``gpu``."""
    monkeypatch.setattr(gpus, "_assumed", ContextVar("assumed", default=gpu))


def let_products_fuse(monkeypatch):
    """``scaled_mm`` may be used on the CPU, and nothing else is chosen as on a GPU."""
    monkeypatch.setattr(scaled_mm, "has_kernels", lambda device_type: True)
    monkeypatch.setattr(Gpu, "current", classmethod(lambda cls: H200))
