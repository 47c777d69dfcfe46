# SPDX-License-Identifier: Apache-2.0
"""passes.rewrite.between: what keeps a norm and its reader from being one chain is named, with what it does to rows.

Letters: B sequences, S tokens, H heads, D elements of a head.
"""

import pytest
import torch
import torch.nn.functional as F

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.rewrite.fusion import Fusion
from helion_compile.passes.rewrite.fusion_pass import FusionPass
from helion_compile.passes.semantics import Norm, Rope
from tests.support import programs, stubs
from tests.support.capture import capture
from tests.support.corpus.quantisers import torchao_row
from tests.support.corpus.ropes import rotate_unbound_halves, rotate_unbound_pairs

B, S, H, D = 2, 6, 4, 64
NORM_ROPE = Fusion("norm_rope", (Norm, Rope), lambda chain, emit: {})


def reasons(function, *args, fusions=(stubs.NORM_QUANTIZE, NORM_ROPE)):
    """Why each match of the function is part of no site."""
    fusion_pass = FusionPass(fusions, strict=True)
    capture(function, *args, graph_pass=fusion_pass)
    (record,) = fusion_pass.records
    assert not record.sites
    assert {each.refusal.kind for each in record.unfused} <= {RefusalKind.NO_CHAIN, RefusalKind.NO_FUSION}
    return {each.op.name: str(each.refusal) for each in record.unfused}


def tables():
    return programs.tensor(S, D, dtype=torch.float32, seed=1), programs.tensor(S, D, dtype=torch.float32, seed=2)


def test_text_and_image_joined_before_the_embedding():
    """As Flux."""

    def program(text, image, weight, other, cos, sin):
        joint = torch.cat([programs.llama_norm(text, weight), programs.llama_norm(image, other)], dim=1)
        return rotate_unbound_pairs(joint, cos[None, :, None], sin[None, :, None])

    text, image = programs.tensor(B, 2, H, D), programs.tensor(B, S - 2, H, D, seed=1)
    found = reasons(program, text, image, programs.tensor(D), programs.tensor(D, seed=1), *tables())
    assert found.keys() == {"RMSNorm", "Rope"}
    for other, reason in zip(("Rope", "RMSNorm"), (found["RMSNorm"], found["Rope"]), strict=True):
        assert reason.startswith(f"between it and the {other} stands aten.cat.default (cat")
        assert "which joins its rows with others" in reason
        assert reason.endswith("; one directly behind the other they fuse")


@pytest.mark.parametrize("rotate", [rotate_unbound_pairs, rotate_unbound_halves], ids=lambda function: function.__name__)
def test_image_tokens_alone_are_turned(rotate):
    """As CogVideoX and CogView4."""

    def program(x, weight, cos, sin):
        q = F.layer_norm(x.transpose(1, 2), (D,), weight, weight)
        q[:, :, 2:] = rotate(q[:, :, 2:], cos[None, None, 2:], sin[None, None, 2:])
        return q

    found = reasons(program, programs.tensor(B, S, H, D), programs.tensor(D), *tables())
    assert found.keys() == {"LayerNorm", "Rope"}
    assert "stands aten.slice.Tensor (" in found["LayerNorm"] and "which takes a part of its rows" in found["LayerNorm"]
    assert "between it and the LayerNorm stands aten.slice.Tensor" in found["Rope"]


def windows(x):
    """[B, 8, 8, C] in windows of 4 by 4, as Swin and SAM."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // 4, 4, width // 4, 4, channels)
    return x.transpose(2, 3).contiguous().view(-1, 16, channels)


@pytest.mark.parametrize(
    ("between", "node", "what"),
    [
        (windows, "aten.permute.default", "puts its rows into another order"),
        (lambda x: torch.roll(x, (-2, -2), (1, 2)), "aten.index.Tensor", "puts its rows into another order"),
        (lambda x: windows(F.pad(x, (0, 0, 0, 4))), "aten.constant_pad_nd.default", "adds rows of zeros"),
        (lambda x: torch.cat([x, x.relu()]), "aten.cat.default", "joins its rows with others"),
        (lambda x: torch.cat([x, x.sin()], -1), "aten.cat.default", "changes the rows themselves"),
        (lambda x: x[..., 32:], "aten.slice.Tensor", "changes the rows themselves"),
        (lambda x: x.transpose(2, 3), "aten.permute.default", "changes the rows themselves"),
    ],
    ids=["windows", "shifted", "padded", "joined", "wider", "cut", "transposed"],
)
def test_rows_are_moved_before_the_quantiser(between, node, what):
    def program(x, weight):
        return torchao_row(between(programs.llama_norm(x, weight)))

    found = reasons(program, programs.tensor(B, 8, 8, 64), programs.tensor(64))
    assert f"between it and the Quantize stands {node} (" in found["RMSNorm"] and f", which {what}" in found["RMSNorm"]
    assert "between it and the RMSNorm stands" in found["Quantize"]


def test_nothing_is_said_of_what_no_fusion_in_use_takes():
    def program(x, weight):
        return torchao_row(windows(programs.llama_norm(x, weight)))

    found = reasons(program, programs.tensor(B, 8, 8, 64), programs.tensor(64), fusions=[NORM_ROPE])
    assert found["RMSNorm"].startswith("the result is read by aten.clone.default")
