"""Acting as if a CPU were a GPU, for what is chosen by the GPU and its tables."""

from helion_compile.configs.gpu import Gpu
from helion_compile.fusions import profitability

H200, B200 = Gpu("NVIDIA H200", (9, 0)), Gpu("NVIDIA B200", (10, 0))


def act_as(monkeypatch, gpu):
    """Tensors on the CPU count as lying on ``gpu``."""
    monkeypatch.setattr(profitability, "DEVICES", ("cpu",))
    monkeypatch.setattr(Gpu, "current", classmethod(lambda cls: gpu))
