# SPDX-License-Identifier: Apache-2.0
"""What real model classes look like when they reach Inductor's post-grad passes: what the fusions have to find.

These counts fail first when transformers, torchao or torch change how they write a model.
"""

from collections import Counter

import fp8_models
import pytest
import torch

from tests.support.capture import capture

aten = torch.ops.aten


def targets(graph):
    return Counter(node.target for node in graph.nodes if node.op == "call_function")


# Two layers of seven linears, each quantising its own input; q, k, v repeat one quantisation, gate and up another.
# Norms: two a layer and the last one; Qwen3 adds one on q and one on k a layer.
@pytest.mark.parametrize(("build", "norms"), [(fp8_models.llama, 5), (fp8_models.qwen3, 9), (fp8_models.mistral, 5)])
def test_chains_of_a_two_layer_model(build, norms):
    model = fp8_models.quantize_fp8_per_row(build())
    found = targets(capture(model, fp8_models.token_ids(model, 2, 8)).graph)
    assert found[aten._scaled_mm.default] == 14
    assert found[aten.amax.default] == 14
    assert found[aten.rsqrt.default] == norms


def test_a_row_of_the_quantiser_is_a_token():
    model = fp8_models.quantize_fp8_per_row(fp8_models.llama())
    graph = capture(model, fp8_models.token_ids(model, 2, 8)).graph
    matmuls = [node for node in graph.nodes if node.target == aten._scaled_mm.default]
    scales = {tuple(node.args[2].meta["val"].shape) for node in matmuls}
    assert scales == {(2 * 8, 1)}
    assert {node.args[0].meta["val"].dtype for node in matmuls} == {torch.float8_e4m3fn}
