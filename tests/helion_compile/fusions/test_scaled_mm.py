# SPDX-License-Identifier: Apache-2.0
"""Products that become ``scaled_mm``, those that stay with the library, and why; from torch code to the rewritten graph."""

import fp8_models
import pytest
import torch

from helion_compile import fusions
from helion_compile.frontend.capture import make_inspecting_backend
from helion_compile.kernels import scaled_mm
from tests.support.corpus.quantisers import torchao_row
from tests.support.gpus import let_products_fuse
from tests.support.needs import HAS_ROW_WISE_PRODUCTS

E4M3 = torch.float8_e4m3fn
K, N = 64, 48


@pytest.fixture(autouse=True)
def row_wise_products_on_a_cpu():
    fp8_models.ensure_row_wise_scaled_mm_on_cpu()


@pytest.fixture
def on_a_cpu(monkeypatch):
    """As if the kernel could be the faster one on a CPU, with the choice that it makes there without a table."""
    let_products_fuse(monkeypatch)
    monkeypatch.setattr(scaled_mm, "pick", lambda args: Chosen(scaled_mm.configs.default(scaled_mm.case(*args))))


class Chosen:
    sentence = "no table"

    def __init__(self, config, row=None):
        self.config = config
        self.row = row


def operands(m=16, by_tensor=False):
    generator = torch.Generator().manual_seed(m)
    a, w = (torch.randn(rows, K, generator=generator).to(E4M3) for rows in (m, N))
    sizes = ((), ()) if by_tensor else ((m, 1), (N, 1))
    return a, w, *(torch.rand(size, generator=generator) + 0.5 for size in sizes)


def product(a, w, a_scale, w_scale, bias=None, dtype=torch.bfloat16, fast=True):
    w_scale = w_scale.t() if w_scale.dim() else w_scale
    return torch._scaled_mm(a, w.t(), a_scale, w_scale, bias=bias, out_dtype=dtype, use_fast_accum=fast)


def run(function, *args, **options):
    found = []
    backend = make_inspecting_backend(found, options={"strict": True, **options})
    with torch.no_grad():
        result = torch.compile(function, backend=backend, fullgraph=True)(*args)
    return result, found[0]


@pytest.mark.parametrize("by_tensor", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_product_becomes_the_kernel(on_a_cpu, by_tensor, with_bias, dynamic):
    if dynamic and not by_tensor and not HAS_ROW_WISE_PRODUCTS:
        pytest.skip("this torch does not say of a product on a CPU that it has as many scales as rows")
    bias = torch.arange(N).to(torch.bfloat16) if with_bias else None
    args = (*operands(by_tensor=by_tensor), bias)
    if dynamic:  # the number of tokens
        torch._dynamo.mark_dynamic(args[0], 0)
        if not by_tensor:
            torch._dynamo.mark_dynamic(args[2], 0)
    result, inspected = run(product, *args)
    assert [site.fusion for site in inspected.record.sites] == ["scaled_mm"]
    assert not inspected.record.kept and not inspected.record.refusals
    a, w, a_scale, w_scale, _ = args
    assert torch.equal(result, scaled_mm(a, w, a_scale.reshape(-1), w_scale.reshape(-1), bias, torch.bfloat16, True))


def test_products_in_a_model_keep_their_quantisers_apart(on_a_cpu):
    def linear(x, w, w_scale):
        q, scale = torchao_row(x)
        return product(q, w, scale, w_scale)

    _, w, _, w_scale = operands()
    _, inspected = run(linear, torch.randn(16, K).bfloat16(), w, w_scale)
    assert [site.fusion for site in inspected.record.sites] == ["quant", "scaled_mm"]


@pytest.mark.parametrize("tokens", [64, 65])
def test_many_tokens_stay_with_the_library_where_their_number_is_known(on_a_cpu, tokens):
    _, inspected = run(product, *operands(tokens))
    left = tokens > 64
    assert [site.fusion for site in inspected.record.sites] == ([] if left else ["scaled_mm"])
    assert len(inspected.record.kept) == left and not inspected.record.refusals


def test_a_cpu_keeps_the_library():
    _, inspected = run(product, *operands())
    assert not inspected.record.sites and not inspected.record.refusals and len(inspected.record.kept) == 1


def test_exact_keeps_the_library(on_a_cpu):
    _, inspected = run(product, *operands(), numerics="exact")
    assert not inspected.record.sites and not inspected.record.refusals and len(inspected.record.kept) == 1


def refusals(function, *args):
    _, inspected = run(function, *args)
    assert not inspected.record.sites
    return [str(refusal) for refusal in inspected.record.refusals]


def test_near_misses(on_a_cpu):
    a, w, a_scale, w_scale = operands()

    def narrow(a, w, a_scale, w_scale):
        return product(a, w[:40], a_scale, w_scale[:40])

    reasons = refusals(narrow, a, w, a_scale, w_scale)
    assert reasons == ["the weight is 40 by 64; it takes multiples of 16"]


def test_the_identity_of_the_pass_names_the_kernel_and_its_table(monkeypatch):
    before = fusions.identity("default")
    assert scaled_mm.key in before
    monkeypatch.setattr(scaled_mm.table, "fingerprint", lambda: "another table")
    assert "another table" in fusions.identity("default") != before


def test_generated_code_calls_it(on_a_cpu, kernels_are_called):
    args = operands()
    compiled = torch.compile(product, backend="helion", options={"only": ["scaled_mm"], "strict": True})
    with torch.no_grad():
        result, code = torch._inductor.utils.run_and_get_code(compiled, *args)
    assert "helion_scaled_mm_op" in code[0] and "extern_kernels._scaled_mm" not in code[0]
    assert torch.equal(result, scaled_mm(*args[:2], args[2].view(-1), args[3].view(-1), None, torch.bfloat16, True))
