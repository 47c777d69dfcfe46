# SPDX-License-Identifier: Apache-2.0
"""torchao's own configs on a linear layer: what each is read as."""

import pytest
import torch

from helion_compile.passes.ir.values import rounded
from helion_compile.passes.match.matched_graph import match_graph
from helion_compile.passes.semantics import Granularity, Quantize, ScaleUse
from tests.support.capture import capture

torchao = pytest.importorskip("torchao.quantization")

BF16, FP32 = torch.bfloat16, torch.float32
E4M3, INT8 = torch.float8_e4m3fn, torch.int8
FP8 = dict(x_dtype=BF16, dtype=E4M3, qmax=448.0, scale_dtype=BF16, use=ScaleUse.DIVIDE, clamp=(-448.0, 448.0))
WHOLE = dict(x_dtype=BF16, dtype=INT8, use=ScaleUse.MULTIPLY_RECIPROCAL, clamp=(-128.0, 127.0))
FLOOR = rounded(torch.finfo(FP32).eps, BF16)

CONFIGS = {
    "fp8 row": (
        lambda: torchao.Float8DynamicActivationFloat8WeightConfig(granularity=torchao.PerRow()),
        Quantize(**FP8),
    ),
    "fp8 row, bounded": (
        lambda: torchao.Float8DynamicActivationFloat8WeightConfig(
            granularity=torchao.PerRow(), activation_value_lb=1e-3, activation_value_ub=2.0
        ),
        Quantize(**FP8, amax_floor=rounded(1e-3, BF16), amax_ceiling=2.0),
    ),
    "fp8 tensor": (
        lambda: torchao.Float8DynamicActivationFloat8WeightConfig(granularity=torchao.PerTensor()),
        Quantize(**FP8, granularity=Granularity.TENSOR),
    ),
    "int8 row": (
        lambda: torchao.Int8DynamicActivationInt8WeightConfig(),
        Quantize(**WHOLE, qmax=127.5, scale_dtype=BF16, scale_floor=FLOOR),
    ),
    "int8 tensor": (
        lambda: torchao.Int8DynamicActivationInt8WeightConfig(granularity=torchao.PerTensor()),
        Quantize(**WHOLE, qmax=127.5, scale_dtype=BF16, scale_floor=FLOOR, granularity=Granularity.TENSOR),
    ),
    "int8 asymmetric": (
        lambda: torchao.Int8DynamicActivationInt8WeightConfig(
            act_mapping_type=torchao.quant_primitives.MappingType.ASYMMETRIC
        ),
        Quantize(**WHOLE, qmax=255.0, scale_dtype=BF16, scale_floor=FLOOR, zero_point=True),
    ),
    "int8 static": (
        lambda: torchao.Int8StaticActivationInt8WeightConfig(
            act_quant_scale=torch.tensor([[0.1]]), granularity=torchao.PerTensor()
        ),
        Quantize(**WHOLE, qmax=127.0, scale_dtype=FP32, granularity=Granularity.TENSOR, dynamic=False),
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_linear_layer(name, monkeypatch):
    # torchao refuses a machine without an fp8 GPU, but its aten form runs anywhere.
    monkeypatch.setattr(torchao.quant_api, "_check_hardware_support", lambda *args, **kwargs: None)
    make, op = CONFIGS[name]
    model = torch.nn.Sequential(torch.nn.Linear(256, 512, bias=False)).bfloat16().eval()
    config = make()
    config.set_inductor_config = False  # the compiler's options are those of the whole process
    torchao.quantize_(model, config)
    torch.manual_seed(0)
    matched = match_graph(capture(model, torch.randn(32, 256).bfloat16()).graph)
    assert [match.op for match in matched.matches if isinstance(match.op, Quantize)] == [op]
    assert not [refusal for refusal in matched.refusals if refusal.candidate == "quantize"]
