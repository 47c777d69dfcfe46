# SPDX-License-Identifier: Apache-2.0
"""passes.patterns.custom_ops.vllm_rope: why vLLM's rotary embeddings are left alone."""

import torch

from tests.support.vllm.calls import Calls
from tests.support.vllm.matching import ops, reason


def test_embeddings_of_vllms_library_say_why_they_stay():
    calls = Calls()
    call = calls.functional(
        ops._C.rotary_embedding.default,
        positions=calls.input(4, dtype=torch.int64),
        query=calls.input(4, 256),
        key=calls.input(4, 64),
        head_size=64,
        cos_sin_cache=calls.input(128, 64),
        is_neox=True,
        rope_dim_offset=0,
        inverse=False,
    )
    graph = calls.output(*calls.items(call, 1, 2))
    assert reason(graph, "rope").startswith("_C.rotary_embedding rotates queries and keys in one call")
