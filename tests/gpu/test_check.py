# SPDX-License-Identifier: Apache-2.0
"""`check` on a GPU: the kernel is launched and replayed, and mistakes are found there."""

import helion.language as hl
import pytest
import torch

import helion_compile
from helion_compile import Case, KernelCheckError, check, kernels
from tests.support.small_kernels import accumulate, affine, bump, split_sign


@pytest.mark.parametrize(
    "kernel, more",
    [(affine, 0), (split_sign, 0), (bump, 0), (accumulate, 1)],
    ids=lambda value: getattr(value, "bare_name", ""),
)
def test_right_kernels(kernel, more):
    x = torch.randn(17, 256, device="cuda", dtype=torch.bfloat16)
    assert "body             ok: launched on the GPU" in str(check(kernel, *[x.clone() for _ in range(1 + more)]))


@pytest.mark.parametrize("name, fields", [("quant", {}), ("norm_quant", {"residual": True})])
def test_kernels_of_the_package(name, fields):
    case = Case(num_tokens=17, hidden_size=2048, dtype="bf16", **fields)
    kernel = getattr(kernels, name)
    # A sum in another order moves few of the quantised values to a neighbour, and of e4m3 that is an eighth of the value.
    check(kernel, *kernel.tuning.make_inputs(case, torch.device("cuda")), rtol=0.125, atol=2.0**-9)


def test_mistakes():
    def wrong(x):
        out = torch.empty([x.size(1), x.size(0)], dtype=x.dtype, device=x.device).t()
        for tile in hl.tile(x.size()):
            out[tile] = x[tile] + 1
            x[tile] = x[tile] * 0
        return out

    with pytest.raises(KernelCheckError, match="wrote to the argument 'x'") as error:
        check(helion_compile.kernel(wrong, reference=lambda x: x + 1), torch.randn(6, 16, device="cuda"))
    assert "The result has strides (1, 6) from the body and (16, 1) from the reference" in str(error.value)
