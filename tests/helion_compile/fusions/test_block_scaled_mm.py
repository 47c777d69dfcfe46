# SPDX-License-Identifier: Apache-2.0
"""Products of blocks that become ``block_scaled_mm``, those that stay with their library, and why.

Letters: M tokens, N output features, K what is summed over.
"""

import pytest
import torch

from helion_compile.configs.table import Gpu, Row
from helion_compile.frontend.capture import make_inspecting_backend
from helion_compile.fusions import block_scaled_mm as fusion
from helion_compile.fusions import fusions
from helion_compile.kernels import block_scaled_mm
from helion_compile.kernels.families import block_scaled_mm_library
from helion_compile.kernels.families.block_scaled_mm import BlockScaledMmArgs
from helion_compile.kernels.families.block_scaled_mm_configs import make_config
from helion_compile.passes import FusionPass
from tests.support import stubs
from tests.support.numerics import assert_products_near
from tests.support.vllm.calls import Calls

FP8, BF16, FP32 = torch.float8_e4m3fn, torch.bfloat16, torch.float32
H200 = Gpu("NVIDIA H200", (9, 0))
TILES = make_config(64, 16, 1, warps=4, stages=4)
M, N, K = 16, 256, 384
ops = torch.ops


@pytest.fixture
def rows(monkeypatch, tmp_path):
    """Puts rows into the one table there is; the kernel may be used on a CPU."""
    monkeypatch.setattr(fusion, "has_kernels", lambda device_type: True)
    monkeypatch.setattr(Gpu, "current", classmethod(lambda cls: H200))
    monkeypatch.setenv("HELION_COMPILE_CONFIG_DIR", str(tmp_path))
    block_scaled_mm.table.reload()

    def add(config, library, tokens=M, k=K):
        tensors = torch.empty(tokens, k, dtype=FP8), torch.empty(N, k, dtype=FP8), torch.empty(tokens, 3), torch.empty(2, 3)
        case = block_scaled_mm.case(*tensors, None, BF16, library)
        block_scaled_mm.table.add([Row(case, config, made_with={"kernel": block_scaled_mm.config_fingerprint})], H200)

    yield add
    monkeypatch.undo()
    block_scaled_mm.table.reload()


def deepgemm(calls, a, w, a_scale, w_scale):
    memory = calls.empty(M, N, dtype=BF16)
    op = ops.vllm.fp8_gemm_nt_op.default
    named = dict(q_input=a, input_scale=a_scale, weight=w, weight_scale=w_scale, output=memory, use_deep_gemm_e8m0=False)
    return calls.items(calls.functional(op, **named), 1)


def triton(calls, a, w, a_scale, w_scale):
    op = ops.vllm.w8a8_triton_block_scaled_mm_func.default
    return [calls.call(op, a, w, a_scale, w_scale, [128, 128], BF16)]


def cutlass(calls, a, w, a_scale, w_scale):
    memory, (b, b_scale) = calls.empty(M, N, dtype=BF16), (calls.call(ops.aten.t.default, each) for each in (w, w_scale))
    named = dict(out=memory, a=a, b=b, a_scales=a_scale, b_scales=b_scale, bias=None)
    return calls.items(calls.functional(ops._C.cutlass_scaled_mm.default, **named), 1)


PRODUCTS = {"deepgemm": deepgemm, "triton": triton, "cutlass": cutlass}


def fused(library, *, scale_shapes=((M, 3), (2, 3)), scale_dtype=FP32, numerics="default", untuned=False):
    calls = Calls()
    a, w = calls.input(M, K, dtype=FP8), calls.input(N, K, dtype=FP8)
    graph = calls.output(*PRODUCTS[library](calls, a, w, *(calls.input(*each, dtype=scale_dtype) for each in scale_shapes)))
    fusion_pass = FusionPass(fusions(numerics, untuned), strict=True)
    fusion_pass(graph)
    graph.lint()
    return graph, fusion_pass.records[0]


@pytest.mark.parametrize("library", PRODUCTS)
def test_a_product_of_vllm_becomes_the_kernel(rows, library):
    rows(TILES, library)
    graph, record = fused(library)
    assert [site.fusion for site in record.sites] == ["block_scaled_mm"] and not record.refusals
    (call,) = [node for node in graph.nodes if "helion_kernel" in str(node.target)]
    arguments = BlockScaledMmArgs(*call.args)
    assert (arguments.dtype, arguments.library, arguments.bias) == (BF16, library, None)
    shapes = [tuple(arguments[position].meta["val"].shape) for position in range(4)]
    assert shapes == [(M, K), (N, K), (M, 3), (2, 3)]
    assert not any(library in str(node.target) or "auto_functionalized" in str(node.target) for node in graph.nodes)


@pytest.mark.parametrize(
    "others", [None, dict(k=512), dict(library="torch")], ids=["no rows", "another size", "another library"]
)
def test_without_a_row_against_its_library_a_product_stays(rows, others):
    if others:
        rows(TILES, **{"library": "deepgemm", **others})
    _, record = fused("deepgemm")
    assert not record.sites and not record.refusals
    (kept,) = record.kept
    assert str(kept.refusal).startswith("nothing says that block_scaled_mm is faster here: no table has a row for")
    _, record = fused("deepgemm", untuned=True)
    assert [site.fusion for site in record.sites] == ["block_scaled_mm"]


def test_where_the_row_says_so_the_library_stays(rows):
    rows({"fallback": "library"}, "deepgemm")
    _, record = fused("deepgemm")
    assert not record.sites
    assert str(record.kept[0].refusal).startswith("for 16 tokens the library's product is the faster one")


def test_exact_and_a_cpu_keep_the_library(rows, monkeypatch):
    rows(TILES, "deepgemm")
    _, record = fused("deepgemm", numerics="exact")
    assert not record.sites and "sums in another order" in str(record.kept[0].refusal)
    monkeypatch.setattr(fusion, "has_kernels", lambda device_type: False)
    _, record = fused("deepgemm")
    assert not record.sites and "on a cpu the kernel has nothing to gain" in str(record.kept[0].refusal)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (dict(scale_shapes=((M, 1), (2, 1)), scale_dtype=torch.int32), "a_scale is torch.int32; it takes torch.float32"),
        (dict(scale_shapes=((M, 6), (4, 6))), "a_scale is (16, 6); it takes [16, 3], one scale a group of 128"),
        (dict(scale_shapes=((M, 3), (4, 3))), "w_scale is (4, 3); it takes [2, 3], one scale a group of 128"),
        (dict(scale_shapes=((3, M), (2, 3))), "a_scale is (3, 16); it takes [16, 3]"),
    ],
    ids=["packed powers of two", "groups of 64", "blocks of 64 by 128", "scales turned"],
)
def test_near_misses(rows, changes, reason):
    rows(TILES, "triton")
    _, record = fused("triton", **changes)
    assert not record.sites
    (refusal,) = record.refusals
    assert refusal.candidate == "block_scaled_mm" and str(refusal).startswith(reason)


def test_products_of_rows_are_none_of_its_business(rows):
    calls = Calls()
    graph = calls.output(calls.matmul(calls.input(4, 64, dtype=FP8), calls.input(4, 1, dtype=FP32)))
    fusion_pass = FusionPass(fusions(), strict=True)
    fusion_pass(graph)
    (record,) = fusion_pass.records
    assert not record.refusals and not record.sites
    assert str(record.kept[0].refusal).startswith("on a cpu the kernel has nothing to gain")  # scaled_mm's


# --- a compiled function, on a CPU


def quantise(x):
    """torchao's quantiser to groups of 128, in plain torch."""
    groups = x.unflatten(-1, (-1, 128))
    scale = groups.abs().amax(-1).float() / 448.0
    return (groups / scale[..., None]).clamp(-448, 448).flatten(-2).to(FP8), scale


def linear(x, weight, w, w_scale):
    """A layer's norm, quantiser and product as torchao writes them."""
    q, scale = quantise(torch.nn.functional.rms_norm(x, x.shape[-1:], weight, 1e-6))
    return ops.ao.blockwise_fp8_gemm(q, scale, w, w_scale)


@pytest.mark.parametrize("dynamic", [False, True])
def test_norm_quantiser_and_product_are_two_kernels(rows, dynamic):
    rows(TILES, "torchao")
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(M, K, generator=generator).to(BF16), torch.rand(K, generator=generator).to(BF16)
    w = torch.randn(N, K, generator=generator).to(FP8)
    w_scale = torch.rand(2, 3, generator=generator) + 0.5
    if dynamic:
        torch._dynamo.mark_dynamic(x, 0)
    found = []
    backend = make_inspecting_backend(found, options={"strict": True})
    with stubs.libraries(), torch.no_grad():
        expected = linear(x, weight, w, w_scale)
        result = torch.compile(linear, backend=backend, fullgraph=True)(x, weight, w, w_scale)
    record = found[0].record
    assert [site.fusion for site in record.sites] == ["norm_quant", "block_scaled_mm"]
    assert not record.refusals and not record.kept
    assert_products_near(result, expected)


# --- the library's side of the choice


@pytest.mark.parametrize("library", ["deepgemm", "triton", "cutlass", "torchao", "torch"])
def test_the_library_is_called_as_its_graph_calls_it(monkeypatch, library):
    called = []

    def product(a, w, a_scale, w_scale):
        called.append(library)
        return block_scaled_mm.reference(a, w, a_scale, w_scale, None, BF16)

    class Operators:
        def fp8_gemm_nt_op(self, a, a_scale, w, w_scale, out, e8m0):
            out.copy_(product(a, w, a_scale, w_scale))

        def w8a8_triton_block_scaled_mm_func(self, a, w, a_scale, w_scale, block, dtype):
            assert block == [128, 128] and dtype == BF16
            return product(a, w, a_scale, w_scale)

        def cutlass_scaled_mm(self, out, a, b, a_scale, b_scale, bias):
            assert bias is None
            out.copy_(product(a, b.t(), a_scale, b_scale.t()))

        def blockwise_fp8_gemm(self, a, a_scale, w, w_scale, block):
            assert block == 128
            return product(a, w, a_scale, w_scale)

    for namespace in ("vllm", "_C", "ao"):
        monkeypatch.setattr(torch.ops, namespace, Operators())
    monkeypatch.setattr(torch, "_scaled_mm", lambda a, b, s, t, bias, _, dtype: product(a, b.t(), s, t.t()))
    generator = torch.Generator().manual_seed(1)
    a, w = (torch.randn(size, K, generator=generator).to(FP8) for size in (M, N))
    args = (a, w, torch.rand(M, 3, generator=generator), torch.rand(2, 3, generator=generator), None, BF16, library)
    assert torch.equal(block_scaled_mm.fallbacks["library"](*args), block_scaled_mm(*args))
    if library != "torch":
        out = torch.empty(M, N, dtype=BF16)
        block_scaled_mm.fallbacks["library"](*args, out=(out,))
        assert torch.equal(out, block_scaled_mm(*args))
    assert set(called) == {library} and library in block_scaled_mm_library.list_loaded()
