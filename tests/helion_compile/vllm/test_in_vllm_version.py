# SPDX-License-Identifier: Apache-2.0
"""What the installed vLLM has: the operators of its snapshot, and the private names that we use."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("vllm.envs")  # "vllm" alone would find this folder

import vllm

from helion_compile import compat
from tests.support.vllm.take_snapshot import SCHEMAS, read_schemas


def test_the_snapshot_is_that_of_this_vllm():
    schemas = read_schemas(Path(vllm.__file__).parents[1])
    assert schemas == json.loads((SCHEMAS / f"{vllm.__version__}.json").read_text())
    for name, schema in schemas.items():
        if name.startswith("vllm_ir."):  # the others need a GPU, or modules that do, to be defined
            defined = getattr(torch.ops.vllm_ir, name.partition(".")[2]).default._schema
            assert str(defined) == f"vllm_ir::{schema}"


@pytest.mark.parametrize("name", [name for name, entry in compat.NAMES.items() if entry.versions is compat.VLLM])
def test_a_private_name_of_vllm_is_there(name):
    if name != "vllm_custom_ops":  # loads the CUDA library
        assert getattr(compat, name) is not None
