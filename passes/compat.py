# SPDX-License-Identifier: Apache-2.0
"""The versions that ``passes`` was tested with, and every name of torch that is not public; no other file imports one."""

from __future__ import annotations

from torch._dispatch.python import enable_python_dispatcher
from torch._guards import detect_fake_mode
from torch._higher_order_ops.auto_functionalize import auto_functionalized
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager
from torch.fx.node import _get_qualified_name as get_qualified_name
from torch.utils._python_dispatch import _disable_current_modes as disable_current_modes

__all__ = [
    "TORCH",
    "VLLM",
    "CustomGraphPass",
    "FakeTensor",
    "FakeTensorMode",
    "OpOverload",
    "auto_functionalized",
    "detect_fake_mode",
    "disable_current_modes",
    "enable_python_dispatcher",
    "get_qualified_name",
    "in_kernel_invocation_manager",
]

# Each has a file in ``constraints``; the names above are the same in all of them.
TORCH = ("2.11.0", "2.13.0", "2.15.0")
# vLLM is not imported here.  Its operators are known by name, and compared for each with ``tests/support/vllm/schemas``.
VLLM = ("0.26.0", "0.31.0", "0.33.0")
