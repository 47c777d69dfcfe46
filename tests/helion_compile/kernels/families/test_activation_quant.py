# SPDX-License-Identifier: Apache-2.0
"""``activation_quant`` without a GPU: its body as plain torch, what it refuses, and what its default config compiles to."""

import pytest
import torch
import torch.nn.functional as F

from helion_compile.configs.case import Case
from helion_compile.kernels import activation_quant
from helion_compile.kernels.device.quantize_attrs import QuantizeAttrs
from helion_compile.tune.compiling import Target
from helion_compile.tune.pool import CompilePool
from tests.support.numerics import fp8_steps
from tests.support.pairwise import pairwise

TORCHAO = QuantizeAttrs(torch.float8_e4m3fn, clamp=(-448.0, 448.0), scale_dtype=torch.bfloat16).text
FUNCTIONS = {
    "silu": F.silu,
    "silu_sigmoid": lambda x: x * torch.sigmoid(x),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu_squared": lambda x: F.relu(x).square(),
    "relu": F.relu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}
# Rows of the MLPs of Qwen3 and Llama 3, and one that is no power of two.
ROWS = [3072, 8192, 12288, 14336, 25600, 28672]


@pytest.mark.parametrize(
    ("function", "dtype", "gated", "exact"),
    pairwise(FUNCTIONS, (torch.bfloat16, torch.float16, torch.float32), (False, True), (False, True)),
    ids=str,
)
def test_the_body_computes_the_reference(bodies, function, dtype, gated, exact):
    torch.manual_seed(0)
    both = torch.randn(13, 500).to(dtype) * 2
    x, up = both.chunk(2, -1)
    arguments = x, up if gated else None, None, None, function, "function", TORCHAO, exact, True
    (q, scale, out), expected = bodies[activation_quant](*arguments), activation_quant.reference(*arguments)
    # torch.sigmoid on a CPU is another 1 / (1 + exp(-x)) in fp32's last bit; a GPU's is not.
    bits = exact and not (function in ("silu_sigmoid", "quick_gelu") and dtype == torch.float32)
    if bits:
        assert torch.equal(out, expected[2])
    assert fp8_steps(q, expected[0]).max() <= 1  # a CPU divides amax by 448, a GPU multiplies by 1 / 448
    torch.testing.assert_close(scale, expected[1], rtol=2**-7, atol=0)  # a step of bf16, in which it is rounded
    torch.testing.assert_close(out, expected[2])
    written = FUNCTIONS[function](x.double()) * (up.double() if gated else 1)
    # Function and product are each rounded to bf16, by 2^-8 at most; in fp32 gelu's 1 + erf(x) cancels.
    torch.testing.assert_close(out.double(), written, rtol=2**-7 if dtype != torch.float32 else 1e-5, atol=1e-5)


@pytest.mark.parametrize("function", ["silu", "silu_sigmoid", "gelu", "quick_gelu"])
def test_every_step_rounded(bodies, function):
    x = torch.randn(13, 256).bfloat16() * 2
    arguments = x, None, None, None, function, "every_step", TORCHAO, True, True
    assert torch.equal(bodies[activation_quant](*arguments)[2], activation_quant.reference(*arguments)[2])


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("rounding", ["every_step", "function", "result"])
def test_clamped_and_interleaved(bodies, rounding, exact):
    """gpt-oss' halves, every second element each, with its clamps and its (up + 1)."""
    both = torch.randn(13, 512, generator=torch.Generator().manual_seed(0)).mul(4).bfloat16()
    both[0, :6] = torch.tensor([float("inf"), -float("inf"), float("nan"), 1.0, 1.0, float("nan")])
    x, up = both[:, ::2], both[:, 1::2]
    arguments = x, up, None, None, "quick_gelu limit=7 up_offset=1", rounding, TORCHAO, exact, True
    assert activation_quant.check_supported(*arguments) is None
    (q, _, out), expected = bodies[activation_quant](*arguments), activation_quant.reference(*arguments)
    assert not exact or torch.equal(out.float().nan_to_num(9e9), expected[2].float().nan_to_num(9e9))
    torch.testing.assert_close(out, expected[2], equal_nan=True)
    assert fp8_steps(q, expected[0]).max() <= 1
    gate, up = x.double().clamp(max=7.0), up.double().clamp(-7.0, 7.0)
    truth = (up + 1) * (gate * torch.sigmoid(1.702 * gate))
    torch.testing.assert_close(out.double(), truth, rtol=2**-4 if exact else 2**-8, atol=1e-4, equal_nan=True)


def test_a_scale_a_group(bodies):
    x, up = (torch.randn(13, 512).bfloat16() * 2).chunk(2, -1)
    quantizer = QuantizeAttrs(torch.float8_e4m3fn, clamp=(-448.0, 448.0), group=128).text
    arguments = x, up, None, None, "silu", "function", quantizer, True, False
    (q, scale), expected = bodies[activation_quant](*arguments), activation_quant.reference(*arguments)
    assert scale.shape == expected[1].shape == (13, 2)
    assert fp8_steps(q, expected[0]).max() <= 1
    torch.testing.assert_close(scale, expected[1])


def test_arguments_that_it_refuses():
    x = torch.randn(8, 64).bfloat16()

    def reason(x, up=None, function="silu", rounding="function", exact=False):
        return activation_quant.check_supported(x, up, None, None, function, rounding, TORCHAO, exact, False)

    assert reason(x, x) is None
    assert reason(x, x[:, :32]).endswith("both must be alike")
    assert reason(x, x.float()).startswith("up is torch.float32")
    assert reason(torch.randn(8, 128).bfloat16()[:, ::2], torch.randn(8, 128).bfloat16()[:, 1::2]) is None
    assert "the last dimension of up is not contiguous" in reason(x, torch.randn(64, 8).bfloat16().t())
    assert "is none of" in reason(x, function="swish")
    assert "each step of gelu's cube" in reason(x, function="gelu_tanh", rounding="every_step", exact=True)
    assert reason(x, function="gelu_tanh", rounding="every_step") is None


def test_its_default_config_holds_every_row_in_registers(tmp_path):
    pool = CompilePool(2, ("helion_compile.kernels",), Target(90, 132), {"TRITON_CACHE_DIR": str(tmp_path)})
    try:
        done = {}
        for hidden_size in ROWS:
            case = Case(hidden_size=hidden_size, num_tokens=16, dtype=torch.bfloat16, gated=True)
            done[hidden_size] = pool.submit("activation_quant", case, activation_quant.configs.default(case))
        for hidden_size, future in done.items():
            compiled = future.result(timeout=250)
            assert not compiled.error and compiled.spills == 0, (hidden_size, compiled.error, compiled.spills)
    finally:
        pool.stop()
