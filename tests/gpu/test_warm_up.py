# SPDX-License-Identifier: Apache-2.0
import torch

import helion_compile
from helion_compile import counters
from helion_compile.kernels import norm_quant
from tests.support.launch_kernels import mixed

ATTRIBUTES = (
    None,
    None,
    None,
    None,
    1e-6,
    "rms cast_then_scale",
    "float8_e4m3fn clamp=-448:448 scale_dtype=bfloat16",
    False,
    False,
)


def test_after_it_no_number_of_tokens_or_alignment_compiles():
    weight = torch.randn(512, device="cuda", dtype=torch.bfloat16)
    memory = torch.randn(600 * 512, device="cuda", dtype=torch.bfloat16)

    def inputs(tokens, shift=0):
        return (memory[shift : shift + tokens * 512].view(tokens, 512), weight, *ATTRIBUTES)

    done = helion_compile.warm_up(norm_quant, [16, 64, 256], inputs, between=True, unaligned=("x",))
    assert done.counted.loaded > 0
    assert {1, 15, 16, 64, 256} <= set(done.tokens)
    before = counters.compiled
    for tokens in (*range(1, 20), 33, 48, 100, 255, 256):
        for shift in (0, 1, 3, 8):
            norm_quant(*inputs(tokens, shift))
    assert counters.compiled == before


def test_a_compiled_model_is_ready_for_capture():
    @torch.compile(dynamic=True)
    def model(x):
        return mixed(x * 2, None, 2.0, 5, False)

    def inputs(tokens):
        return (torch.randn(tokens, 96, device="cuda"),)

    helion_compile.warm_up(model, [4, 16, 32], inputs)
    before = counters.compiled
    with torch.no_grad():
        for tokens in (4, 16, 32):
            (x,) = inputs(tokens)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                got = model(x)
            graph.replay()
            torch.testing.assert_close(got, mixed.reference(x * 2, None, 2.0, 5, False))
    assert counters.compiled == before
