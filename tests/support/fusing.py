# SPDX-License-Identifier: Apache-2.0
"""Running a function through ``backend="helion"``'s pass up to code generation, and comparing what comes out."""

import torch

from helion_compile.frontend.capture import make_inspecting_backend

E4M3 = torch.float8_e4m3fn


def randn(*shape, dtype=torch.bfloat16, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def run(function, *args, dynamic=False, **options):
    """The result of ``function(*args)`` as ``backend="helion"`` rewrites it, and the pass's record of its one graph."""
    found = []
    backend = make_inspecting_backend(found, options={"strict": True, **options})
    result = torch.compile(function, backend=backend, dynamic=dynamic, fullgraph=True)(*args)
    return result, found[0].record


def fused(record):
    return [site.fusion for site in record.sites]


def bits(tensor):
    """Equal for tensors that are equal bit for bit, but that any NaN equals any other."""
    same = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.element_size()]
    return torch.where(tensor.float().isnan(), -1, tensor.view(same).long())


def assert_bit_equal(results, expected):
    for result, value in zip(results, expected, strict=True):
        assert result.dtype == value.dtype and result.shape == value.shape
        assert torch.equal(bits(result), bits(value))


def refused(function, *args, reason, still=(), **options):
    """The function is left as it is but for the fusions in ``still``, with a reason that holds ``reason``."""
    result, record = run(function, *args, **options)
    assert fused(record) == list(still)
    reasons = [str(refusal) for refusal in record.refusals]
    assert any(reason in found for found in reasons), reasons
    assert all(refusal.found and refusal.remedy for refusal in record.refusals), reasons
    unfused, _ = run(function, *args, only=[])
    assert_bit_equal(torch.utils._pytree.tree_leaves(result), torch.utils._pytree.tree_leaves(unfused))
