# SPDX-License-Identifier: Apache-2.0
import torch
from measure import median_gpu_ms


def test_a_longer_call_takes_longer():
    inputs = [torch.randn(4096, 4096, device="cuda") for _ in range(3)]
    once = median_gpu_ms(lambda x: x @ x, inputs, calls=10)
    eight_times = median_gpu_ms(lambda x: [x @ x for _ in range(8)], inputs, calls=10)
    assert 4 * once < eight_times < 12 * once
