# SPDX-License-Identifier: Apache-2.0
"""What a part of a graph gives in fp64."""

import pytest
import torch
from torch.fx import Graph, GraphModule

from helion_compile.verify.fp64 import in_fp64

FP8 = torch.float8_e4m3fn


@pytest.mark.parametrize("n", [256, 144], ids=["whole blocks", "a part of one"])
def test_a_product_of_blocks(n):
    """a [M, K] with a scale for each row and 128 columns; b [K, N], with one for each block of 128 by 128."""
    m, k = 3, 384
    generator = torch.Generator().manual_seed(n)
    a, w = (torch.randn(rows, k, generator=generator).to(FP8) for rows in (m, n))
    a_scale, w_scale = torch.rand(m, 3, generator=generator), torch.rand(2, 3, generator=generator)
    graph = Graph()
    nodes = [graph.placeholder(name) for name in ("a", "b", "a_scale", "b_scale")]
    graph.output((graph.call_function(torch.ops.aten._scaled_mm.default, tuple(nodes)),))
    (got,) = in_fp64(GraphModule(torch.nn.Module(), graph), (a, w.t(), a_scale, w_scale.t()))
    wanted = torch.zeros(m, n, dtype=torch.float64)
    for group in range(3):
        columns = slice(group * 128, group * 128 + 128)
        rows = w_scale[:, group].double().repeat_interleave(128)[:n]
        wanted += a[:, columns].double() @ w[:, columns].double().t() * a_scale[:, group, None].double() * rows
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
