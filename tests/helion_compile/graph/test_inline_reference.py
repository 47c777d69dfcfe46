# SPDX-License-Identifier: Apache-2.0
"""Where a device has no kernel, Inductor gets the operations of the reference; what cannot be inlined stays a call."""

import re

import pytest
import torch
from torch._functorch.aot_autograd import aot_module_simplified
from torch._inductor.utils import run_and_get_code

import helion_compile
from helion_compile.graph.hop import helion_kernel
from helion_compile.graph.inline_reference import inline_references
from helion_compile.kernels import quant
from tests.support.corpus.quantisers import torchao_row
from tests.support.numerics import assert_products_near
from tests.support.small_kernels import accumulate, add, affine, bump, fill_optional, split_sign

K = 64
QUANTIZER = "float8_e4m3fn clamp=-448:448 scale_dtype=bfloat16"


def run(function, *args, dynamic=False):
    """``function(*args)``, its graph inlined and run node by node, and that graph; it gives what the function gives."""
    graphs = []

    def compiler(module, inputs):
        inline_references(module.graph)
        module.graph.lint()
        module.recompile()
        graphs.append(module.graph)
        return module.forward

    def backend(module, inputs):
        return aot_module_simplified(module, inputs, fw_compiler=compiler)

    copies = [arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in args]
    with torch.no_grad():
        expected = function(*copies)
        result = torch.compile(function, backend=backend, dynamic=dynamic, fullgraph=True)(*args)
    torch.testing.assert_close((result, args), (expected, tuple(copies)), rtol=0, atol=0)
    return graphs[0]


def count_calls(graph):
    return len(graph.find_nodes(op="call_function", target=helion_kernel))


def x(rows=8):
    return torch.randn(rows, K, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: add(x, x) * 2,
        lambda x: affine(x, x, repeat=3, dtype=torch.bfloat16),
        lambda x: affine(x, scale=x.size(0)),
        lambda x: split_sign(x)[1],
        lambda x: split_sign(x),
        lambda x: bump(x),
        lambda x: (accumulate(x, x + 1), x * 2),
        lambda x: accumulate(x[2:], x[2:] * 3),
        lambda x: fill_optional(x, None),
        lambda x: fill_optional(x + 1, x),
        lambda x: quant(x.bfloat16(), None, None, QUANTIZER, False),
        lambda x: quant(x.bfloat16(), None, None, QUANTIZER + " group=16 layout=tma_aligned", False),
    ],
)
def test_a_kernel_becomes_the_operations_of_its_reference(function, dynamic):
    given = x()
    torch._dynamo.mark_static(given, 1)
    graph = run(function, given, dynamic=dynamic)
    assert count_calls(graph) == 0


def test_where_the_kernel_is_it_is_called(kernels_are_called):
    assert count_calls(run(lambda x: add(x, x), x())) == 1


def test_the_operations_say_which_line_of_the_model_they_are_of():
    graph = run(lambda x: add(x, x), x())
    (node,) = graph.find_nodes(op="call_function", target=torch.ops.aten.add.Tensor)
    assert "add(x, x)" in node.meta["stack_trace"]


def kernel_of(reference, **declared):
    def stays_a_call(x):
        pass

    return helion_compile.kernel(stays_a_call, reference=reference, **declared)


CONSTANT = torch.ones(K)


@pytest.mark.parametrize(
    "reference",
    [
        pytest.param(lambda x: x * CONSTANT, id="a tensor of its own"),
        pytest.param(lambda x: x + torch.rand_like(x) * 0, id="random numbers"),
        pytest.param(lambda x: x + x.new_zeros(()).item(), id="reads values"),
        pytest.param(lambda x: x * 2 if x.sum() < torch.inf else x, id="decides by values"),
    ],
)
def test_what_cannot_be_inlined_stays_a_call(reference):
    # In a graph of its fake results, which tracing itself makes of simpler operations.
    kernel = kernel_of(lambda x: x * 2)
    kernel.reference = lambda x: reference(x) if _is_inlining() else x * 2
    assert count_calls(run(lambda x: kernel(x), x())) == 1


def _is_inlining():
    import traceback

    return any(frame.name == "inline_references" for frame in traceback.extract_stack())


def test_a_kernel_that_calls_a_kernel():
    kernel = kernel_of(lambda x: add(x, x) * 3)
    assert count_calls(run(lambda x: kernel(x), x())) == 0


def test_exact_keeps_eagers_bits():
    graph = run(lambda x: quant(x.bfloat16(), None, None, QUANTIZER, True), x())
    assert count_calls(graph) == 1


class Block(torch.nn.Module):
    """q, k and v of one norm, each quantised by itself as torchao does, and a quantised activation."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.norm = torch.nn.Parameter(torch.rand(K, generator=generator).bfloat16() + 0.5)
        weights = torch.randn(4, K, K, generator=generator)
        self.weights = torch.nn.Parameter(weights.to(torch.float8_e4m3fn), requires_grad=False)
        self.register_buffer("ones", torch.ones(1, K))

    def linear(self, x, index):
        q, scale = torchao_row(x)
        return torch._scaled_mm(q, self.weights[index].t(), scale.float(), self.ones, out_dtype=torch.bfloat16)

    def forward(self, x):
        wide = x.float()
        norm = self.norm * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)
        q, k, v = (self.linear(norm, index) for index in range(3))
        return x + self.linear(torch.nn.functional.silu(q * k / 64) * v, 3) / 64


@pytest.fixture
def generated():
    """The result and the generated code of ``Block`` for some options."""

    def of(**options):
        block, given = Block(), x().bfloat16()
        with torch.no_grad(), torch._inductor.config.patch(fx_graph_cache=False, compile_threads=1):
            compiled = torch.compile(block, backend="helion", fullgraph=True, options=options)
            result, (code,) = run_and_get_code(compiled, given)
        sites = [site.site.fusion for site in helion_compile.report(compiled).sites]
        return block, given, result, code, sites

    return of


def test_a_block_is_inductors_code_alone(generated):
    block, given, result, code, sites = generated()
    assert sites == ["norm_quant", "activation_quant"]  # what the pass did is reported as it is on a GPU
    assert "helion" not in code.partition("def call(")[2]
    # Norm and quantiser of q, k and v; activation and quantiser; the residual's sum.
    assert len(re.findall(r"^\s+cpp_fused\w+\(", code, re.MULTILINE)) == 3
    assert len(re.findall(r"= empty_strided_cpu\(\(8, 64\), \(64, 1\), torch\.float8_e4m3fn\)", code)) <= 2
    assert_products_near(result, block(given))


def test_exact_calls_the_reference(generated):
    block, given, result, code, sites = generated(numerics="exact")
    assert sites == ["norm_quant", "activation_quant"]
    assert len(re.findall(r"^\s+helion_\w+\.call\(", code, re.MULTILINE)) == 2
