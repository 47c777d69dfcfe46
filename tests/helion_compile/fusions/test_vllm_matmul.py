# SPDX-License-Identifier: Apache-2.0
"""vLLM's CUTLASS product beside ``scaled_mm``: the kernel takes its place where a table compares the two, and nowhere else."""

import pytest
import torch

from helion_compile.configs.table import Row
from helion_compile.fusions import fusions
from helion_compile.kernels import scaled_mm
from helion_compile.passes import FusionPass
from tests.support.gpus import H200, let_products_fuse
from tests.support.vllm.calls import Calls

FP8 = torch.float8_e4m3fn
TILES = {"block_sizes": [64, 16, 1, 64], "num_warps": 4, "num_stages": 2, "prefetch": 0}
K, N = 64, 32


@pytest.fixture
def rows(monkeypatch, tmp_path):
    """Puts rows into the one table there is; the kernel may be used on a CPU."""
    let_products_fuse(monkeypatch)
    monkeypatch.setenv("HELION_COMPILE_CONFIG_DIR", str(tmp_path))
    scaled_mm.table.reload()

    def add(config, tokens, k=K):
        args = (torch.empty(tokens, k, dtype=FP8), torch.empty(N, k, dtype=FP8), torch.empty(tokens), torch.empty(N), None)
        case = scaled_mm.case(*args, torch.bfloat16, True, "cutlass")
        scaled_mm.table.add([Row(case, config, made_with={"kernel": scaled_mm.config_fingerprint})], H200)

    yield add
    monkeypatch.undo()
    scaled_mm.table.reload()


def fused(tokens):
    calls = Calls()
    weight = calls.call(torch.ops.aten.permute.default, calls.input(N, K, dtype=FP8), [1, 0])
    call = calls.functional(
        torch.ops._C.cutlass_scaled_mm.default,
        out=calls.empty(tokens, N, dtype=torch.bfloat16),
        a=calls.input(tokens, K, dtype=FP8),
        b=weight,
        a_scales=calls.input(tokens, 1, dtype=torch.float32),
        b_scales=calls.input(N, 1, dtype=torch.float32),
        bias=None,
    )
    graph = calls.output(*calls.items(call, 1))
    fusion_pass = FusionPass(fusions(), strict=True)
    fusion_pass(graph)
    graph.lint()
    return graph, fusion_pass.records[0]


def test_the_kernel_is_told_whose_product_it_replaces(rows):
    rows(TILES, 16)
    graph, record = fused(16)
    assert [site.fusion for site in record.sites] == ["scaled_mm"]
    (call,) = [node for node in graph.nodes if "helion_kernel" in str(node.target)]
    assert call.args[-3:] == (torch.bfloat16, True, "cutlass")
    assert "cutlass" not in str([node.target for node in graph.nodes])


@pytest.mark.parametrize("others", [{}, {"k": 128}], ids=["no rows", "rows of another size"])
def test_without_a_row_cutlass_stays(rows, others):
    if others:
        rows(TILES, 16, **others)
    _, record = fused(16)
    assert not record.sites and not record.refusals
    (kept,) = record.kept
    assert str(kept.refusal).startswith("no table says where the kernel is faster than CUTLASS (no table has a row for")


def test_where_the_row_says_so_cutlass_stays(rows):
    rows({"fallback": "library"}, 64)
    _, record = fused(16)
    assert not record.sites
    assert str(record.kept[0].refusal).startswith("for 16 tokens the library's product is the faster one")
