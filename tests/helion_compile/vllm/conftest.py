# SPDX-License-Identifier: Apache-2.0
"""vLLM as it comes, for tests inside of it; others in this folder run without it."""

import pytest

from helion_compile.configs.gpu import Gpu
from helion_compile.vllm.options import OPTIONS, SWITCH


@pytest.fixture
def as_before(monkeypatch):
    """The test starts with vLLM as it comes, on a machine with an H200 as far as vLLM can tell."""
    from vllm.config import VllmConfig
    from vllm.platforms import current_platform

    from helion_compile.vllm import fusion_pass, plugin

    monkeypatch.setattr(type(current_platform), "get_pass_manager_cls", type(current_platform).get_pass_manager_cls)
    monkeypatch.setattr(VllmConfig, "compute_hash", VllmConfig.compute_hash)
    monkeypatch.setattr("helion_compile.vllm.log._said", set())
    monkeypatch.setattr(fusion_pass, "found_gpu", lambda: Gpu("NVIDIA H200", (9, 0)))
    monkeypatch.delenv(OPTIONS, raising=False)
    monkeypatch.setenv(SWITCH, "1")
    plugin._identity.cache_clear()


@pytest.fixture
def config():
    from vllm.config import DeviceConfig, VllmConfig

    return VllmConfig(device_config=DeviceConfig(device="cpu"))
