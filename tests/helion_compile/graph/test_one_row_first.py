# SPDX-License-Identifier: Apache-2.0
"""Code made for a size of one is not used for larger sizes."""

import helion
import helion.language as hl
import torch

from helion_compile import kernel


@kernel(reference=lambda x, weight: x * weight, name="scaled_by_broadcast")
def scaled(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    m, k = x.size()
    out = torch.empty_like(x)
    weights = weight[None, :].expand(m, k)  # tracing this for one row makes a guard on m == 1
    for rows in hl.tile(m):
        out[rows, :] = x[rows, :] * weights[rows, :]
    return out


def grid_of(rows: int) -> str:
    args = (torch.randn(rows, 64), torch.randn(64))
    code = scaled.helion.bind(args).to_triton_code(helion.Config(block_sizes=[1]))
    (launch,) = [line for line in code.splitlines() if "_launcher(_helion" in line]
    return launch.split("(_helion_scaled, ")[1].split(", x")[0]


def test_a_kernel_first_called_with_one_row_still_covers_many():
    assert grid_of(1) == "(1,)"
    assert grid_of(16) == "(m,)"


@kernel(reference=lambda x, factor: (x.view(len(factor), -1, 64) * factor[:, None]).view(-1, 64), name="scaled_by_batch")
def scaled_batches(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    m, k = x.size()
    batches = factor.size(0)
    out = torch.empty_like(x)
    rows, results = x.view(batches, m // batches, k), out.view(batches, m // batches, k)
    for batch, tokens in hl.tile([batches, m // batches], block_size=[1, None]):
        results[batch.begin, tokens, :] = rows[batch.begin, tokens, :] * factor[batch.begin, :][None, :]
    return out


def code_of(rows: int) -> str:
    args = (torch.randn(rows, 64), torch.randn(2, 64))
    return scaled_batches.helion.bind(args).to_triton_code(helion.Config(block_sizes=[1]))


def test_so_does_one_first_called_with_one_row_a_batch():
    one, many = code_of(2), code_of(26)
    assert one != many
    scaled_batches.helion.reset()
    assert code_of(26) == many
