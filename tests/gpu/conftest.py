# SPDX-License-Identifier: Apache-2.0
"""All tests in this folder need a CUDA GPU; `make test-gpu` refuses to start without one, so no skip hides them."""

from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def pytest_sessionstart():
    """A checkout that is not installed has no entry point by which torch finds the backend."""
    if "helion" not in torch._dynamo.list_backends():
        from helion_compile.frontend.backend import helion

        torch._dynamo.register_backend(helion, name="helion")


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
