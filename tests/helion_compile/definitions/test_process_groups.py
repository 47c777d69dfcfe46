# SPDX-License-Identifier: Apache-2.0
"""What a kernel is compiled to does not depend on whether the process has a default process group, as vLLM's have."""

import logging

import pytest
import torch

from helion_compile import compat
from helion_compile.kernels import quant
from helion_compile.kernels.device.quantize_attrs import QuantizeAttrs

ARGS = (torch.zeros(4, 64, dtype=torch.bfloat16), None, None, QuantizeAttrs(torch.float8_e4m3fn).text, False)


@pytest.fixture
def process_group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("torch_knows_symmetric_memory", [True, False])
def test_no_kernel_is_taken_for_a_distributed_one(torch_knows_symmetric_memory, process_group, monkeypatch, caplog, capfd):
    if not torch_knows_symmetric_memory:
        monkeypatch.delattr(compat.symmetric_memory, "is_symm_mem_tensor", raising=False)
    with caplog.at_level(logging.WARNING):
        bound = quant.new_helion_kernel(autotune_effort="none", disable_autotuner_heuristics=True).bind(ARGS)
    assert bound.env.process_group_name is None and "flat" in bound.config_spec.allowed_pid_types
    assert "ProcessGroup" not in caplog.text + capfd.readouterr().err
