# SPDX-License-Identifier: Apache-2.0
"""``explain --quantize``: linears with activations quantised at run time.

Row, tensor and int8 are torchao's.  Its static, group and block linears run on some GPUs alone, so these stand here in plain
torch, with quantisers that are written as torchao writes them.  A static scale is some number: no data is there to choose it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import nn

from helion_compile.cli.errors import CommandError, in_a_line

__all__ = ["quantize"]

FP8 = torch.float8_e4m3fn
_LARGEST = 448.0
_GROUP = 128
_STATIC_SCALE = 0.02


class _Static(nn.Module):
    """A linear in fp8 with one scale for the activations and one for the weights, both given."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight = linear.weight.detach().float()
        weight_scale = (weight.abs().amax() / _LARGEST).clamp(min=1e-12)
        self.register_buffer("weight", (weight / weight_scale).to(FP8))
        self.register_buffer("weight_scale", weight_scale)
        self.register_buffer("scale", torch.full_like(weight_scale, _STATIC_SCALE))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = (x.float() / self.scale).clamp(-_LARGEST, _LARGEST).to(FP8).reshape(-1, x.shape[-1])
        out = torch._scaled_mm(q, self.weight.t(), self.scale, self.weight_scale, bias=self.bias, out_dtype=x.dtype)
        return out.reshape(*x.shape[:-1], -1)


class _Groups(nn.Module):
    """A linear in fp8 with a scale for each 128 activations, and one for each row of weights or for 128 by 128 of them."""

    def __init__(self, linear: nn.Linear, blocks: bool):
        super().__init__()
        weight = linear.weight.detach().float()
        rows, columns = weight.shape
        if columns % _GROUP or (blocks and rows % _GROUP):
            raise CommandError(
                f"groups of {_GROUP} do not fit a linear of {rows} by {columns}; choose --quantize fp8-row, whose scales are "
                f"those of whole rows"
            )
        tall, wide = (_GROUP, _GROUP) if blocks else (1, columns)
        tiles = weight.view(rows // tall, tall, columns // wide, wide)
        scale = (tiles.abs().amax((1, 3), keepdim=True) / _LARGEST).clamp(min=1e-12)
        values = (tiles / scale).to(FP8).view(rows, columns // _GROUP, _GROUP)
        self.register_buffer("weight", values.permute(1, 2, 0).contiguous())  # [K/128, 128, N]
        of_groups = scale.expand(-1, tall, -1, wide // _GROUP).reshape(rows, columns // _GROUP)
        self.register_buffer("weight_scale", of_groups.t().unsqueeze(1).contiguous())  # [K/128, 1, N]
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        amax = x.unflatten(-1, (-1, _GROUP)).abs().amax(-1, keepdim=True)
        scale = (amax / _LARGEST).squeeze(-1).float()
        q = (x.float() / scale.repeat_interleave(_GROUP, -1)).clamp(min=-_LARGEST, max=_LARGEST).to(FP8)
        # A GEMM with scales of groups is another one on each GPU: a product for each group stands here for all of them.
        groups = q.to(x.dtype).reshape(-1, x.shape[-1] // _GROUP, _GROUP).transpose(0, 1)
        products = torch.bmm(groups, self.weight.to(x.dtype)).float()  # [K/128, M, N]
        scales = scale.reshape(-1, x.shape[-1] // _GROUP).t().unsqueeze(-1) * self.weight_scale
        out = (products * scales).sum(0).to(x.dtype)
        return (out if self.bias is None else out + self.bias).reshape(*x.shape[:-1], -1)


def _in_plain_torch(make: Callable[[nn.Linear], nn.Module]) -> Callable[[nn.Module], None]:
    def quantize_linears(model: nn.Module) -> None:
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear) and name != "lm_head":
                    setattr(parent, name, make(child))

    return quantize_linears


def _by_torchao(config: Callable[[Any], Any]) -> Callable[[nn.Module], None]:
    def quantize_linears(model: nn.Module) -> None:
        try:
            import torchao.quantization as torchao
        except ImportError:
            raise CommandError("linears are quantised by torchao, which is not installed: pip install torchao") from None
        # torchao asks for a GPU that is fast at fp8; what a graph looks like does not depend on that.
        with mock.patch("torchao.quantization.quant_api._check_hardware_support", create=True):
            torchao.quantize_(model, config(torchao), filter_fn=lambda m, name: isinstance(m, nn.Linear) and name != "lm_head")

    return quantize_linears


# the words of SCHEMES in `explain.py` -> what quantises the linears of a model but its head
_QUANTIZERS: dict[str, Callable[[nn.Module], None]] = {
    "fp8-row": _by_torchao(lambda ao: ao.Float8DynamicActivationFloat8WeightConfig(granularity=ao.PerRow())),
    "fp8-tensor": _by_torchao(lambda ao: ao.Float8DynamicActivationFloat8WeightConfig(granularity=ao.PerTensor())),
    "fp8-static": _in_plain_torch(_Static),
    "fp8-group": _in_plain_torch(lambda linear: _Groups(linear, blocks=False)),
    "fp8-block": _in_plain_torch(lambda linear: _Groups(linear, blocks=True)),
    "int8-row": _by_torchao(lambda ao: ao.Int8DynamicActivationInt8WeightConfig()),
    "int8": _by_torchao(lambda ao: ao.Int8DynamicActivationInt8WeightConfig()),
}


def quantize(model: nn.Module, scheme: str) -> None:
    """Quantise the linears of ``model`` but its head, in place.

    Raises:
        CommandError: they cannot be quantised so.
    """
    try:
        _QUANTIZERS[scheme](model)
    except CommandError:
        raise
    except Exception as error:
        raise CommandError(
            f"the linears of {type(model).__name__} cannot be quantised with --quantize {scheme}: {in_a_line(error)}; choose "
            f"another scheme, or leave --quantize out"
        ) from error
