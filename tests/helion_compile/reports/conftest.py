# SPDX-License-Identifier: Apache-2.0
"""A report with everything that a page shows."""

import fp8_models
import pytest
import torch

from helion_compile import explain
from tests.support.corpus.quantisers import torchao_row


class WithAScore(torch.nn.Module):
    """A model, and behind it a quantiser that is refused."""

    def __init__(self):
        super().__init__()
        self.model = fp8_models.quantize_fp8_per_row(fp8_models.qwen3())

    def forward(self, ids):
        logits = self.model(ids).logits
        q, _ = torchao_row(logits)
        return q, torch.topk(q.float(), 4)


@pytest.fixture(scope="session")
def report():
    model = WithAScore()
    return explain(model, fp8_models.token_ids(model.model, 2, 16), verify=True)
