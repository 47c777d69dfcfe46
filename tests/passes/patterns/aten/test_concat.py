# SPDX-License-Identifier: Apache-2.0
"""passes.patterns.aten.concat; the corpus has the ways of writing it."""

import pytest
import torch
import torch.nn.functional as F

from helion_compile.passes.match.matched_graph import match_graph
from helion_compile.passes.semantics import Concat
from tests.support import tensors
from tests.support.capture import capture

ATTENTION, MLP = tensors.tensor(2, 6, 64), tensors.tensor(2, 6, 256, seed=1)


def find(function, *args, **options):
    matched = match_graph(capture(function, *args, **{"dynamic": False, **options}).graph)
    assert not [refusal for refusal in matched.refusals if refusal.candidate == "concat"]
    return [match for match in matched.matches if isinstance(match.op, Concat)]


def test_any_number_of_tokens():
    def program(attention, mlp):
        return torch.cat([attention, F.gelu(mlp)], -1)

    tensors_of_any_size = ATTENTION.clone(), MLP.clone()
    for tensor in tensors_of_any_size:
        torch._dynamo.mark_dynamic(tensor, 1)
    (match,) = find(program, *tensors_of_any_size, dynamic=None)
    assert {name: node.op for name, node in match.inputs.items()}["front"] == "placeholder"


def test_what_was_taken_apart_and_joined_again_is_read_whole():
    def program(attention, mlp):
        front = torch.cat([attention[:, :2], attention[:, 2:5], attention[:, 5:]], 1)
        return torch.cat([front, F.silu(mlp)], -1)

    (match,) = find(program, ATTENTION, MLP)
    assert match.inputs["front"].op == "placeholder" and len(match.nodes) == 5


@pytest.mark.parametrize(
    "joined",
    [
        lambda a: [a[:, 3:], a[:, :3]],  # in another order
        lambda a: [a[:, :2], a[:, 3:], a[:, :1]],  # with a token left out
        lambda a: [a[:, :3], (a + 1)[:, 3:]],  # of two tensors
    ],
)
def test_other_tokens_are_joined_in_a_tensor_of_their_own(joined):
    def program(attention, mlp):
        return torch.cat([torch.cat(joined(attention), 1), F.silu(mlp)], -1)

    (match,) = find(program, ATTENTION, MLP)
    assert match.inputs["front"].target is torch.ops.aten.cat.default


@pytest.mark.parametrize(
    "program",
    [
        lambda a, m: torch.cat([F.gelu(m), a], -1),  # the activation is in front
        lambda a, m: torch.cat([a, m], -1),  # no activation
        lambda a, m: torch.cat([a, F.gelu(m), a], -1),  # three parts
        lambda a, m: torch.cat([a, F.gelu(m[..., :64])], 1),  # tokens
        lambda a, m: torch.cat([a, F.gelu(m.float())], -1),  # of two dtypes
        lambda a, m: torch.cat([-a[..., 32:], a[..., :32]], -1) * F.gelu(m[..., :64]),  # an embedding's halves
    ],
)
def test_no_concatenation_of_ours(program):
    assert find(program, ATTENTION, MLP) == []
