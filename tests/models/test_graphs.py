"""What real model classes look like when they reach Inductor's post-grad passes: what the fusions have to find.

These counts fail first when transformers, torchao or torch change how they write a model.
"""

from collections import Counter

import fp8_models
import pytest
import torch
from torch._inductor import config as inductor
from torch._inductor.custom_graph_pass import CustomGraphPass

aten, prims = torch.ops.aten, torch.ops.prims


class Capture(CustomGraphPass):
    """Keeps each post-grad graph and changes none; without a uuid Inductor compiles anew instead of from its cache."""

    def __init__(self):
        self.graphs = []

    def __call__(self, graph):
        self.graphs.append(torch.fx.Graph())
        self.graphs[-1].graph_copy(graph, {})

    def uuid(self):
        return None


@pytest.fixture
def capture():
    capture = Capture()
    with inductor.patch(post_grad_custom_pre_pass=capture):
        yield capture


def targets(capture):
    (graph,) = capture.graphs
    return Counter(node.target for node in graph.nodes if node.op == "call_function")


# Two layers of seven linears, each quantising its own input; q, k, v repeat one quantisation, gate and up another.
# Norms: two a layer and the last one; Qwen3 adds one on q and one on k a layer.
@pytest.mark.parametrize(("build", "norms"), [(fp8_models.llama, 5), (fp8_models.qwen3, 9), (fp8_models.mistral, 5)])
def test_chains_of_a_two_layer_model(build, norms, capture):
    model = fp8_models.quantize_fp8_per_row(build())
    ids = fp8_models.token_ids(model, 2, 8)
    torch.compile(model, fullgraph=True)(ids)
    found = targets(capture)
    assert found[aten._scaled_mm.default] == 14
    assert found[aten.amax.default] == 14
    assert found[aten.rsqrt.default] == norms


def test_a_row_of_the_quantiser_is_a_token(capture):
    model = fp8_models.quantize_fp8_per_row(fp8_models.llama())
    torch.compile(model, fullgraph=True)(fp8_models.token_ids(model, 2, 8))
    (graph,) = capture.graphs
    matmuls = [node for node in graph.nodes if node.target == aten._scaled_mm.default]
    scales = {tuple(node.args[2].meta["val"].shape) for node in matmuls}
    assert scales == {(2 * 8, 1)}
    assert {node.args[0].meta["val"].dtype for node in matmuls} == {torch.float8_e4m3fn}
