# SPDX-License-Identifier: Apache-2.0
"""Names of modules, as Dynamo says how it reached them."""

import pytest
import torch

from helion_compile.passes.ir.source_location import Location


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("L['self'].model.layers[0].mlp", "model.layers.0.mlp"),
        ("L['self']._modules['layers']._modules['0']", "layers.0"),
        # A property or a slot that Dynamo reads around (diffusers' models), and a layer that torch.compile returned.
        ("L['self'].__dict__['_modules']['transformer_blocks']['3']", "transformer_blocks.3"),
        ("L['self'].blocks[1]._orig_mod.norm", "blocks.1.norm"),
    ],
)
def test_the_module_of_a_node(path, module):
    node = torch.fx.Graph().placeholder("x")
    node.meta["nn_module_stack"] = {"key": (path, torch.nn.Module)}
    assert Location.of(node).module == module
