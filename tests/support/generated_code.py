# SPDX-License-Identifier: Apache-2.0
"""The Python code that Inductor makes of a function, and what stands in it."""

import re

import torch
from torch._inductor.utils import run_and_get_code

__all__ = ["BUFFER", "CALL", "calls", "copies", "generated", "square"]

BUFFER = re.compile(r"^ +(buf\d+) = (empty_strided_cpu|reinterpret_tensor|buf\d+)\b(.*)$", re.MULTILINE)
CALL = re.compile(r"^ +helion_(\w+?)_op\d+(?:\.\w+)?\((.*)\)$", re.MULTILINE)


def generated(function, *args, dynamic=False, **options):
    """The Python code that Inductor makes of ``function``, after checking that it gives what eager mode gives."""
    expected_args = torch.utils._pytree.tree_map_only(torch.Tensor, _copy, args)
    expected = function(*expected_args)
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, options=options or None)
    result, (code,) = run_and_get_code(compiled, *args)
    torch.testing.assert_close((result, args), (expected, expected_args))
    return code


def _copy(tensor):
    """Of the same layout, also where elements share memory."""
    memory = tensor.untyped_storage().clone()
    return torch.empty(0, dtype=tensor.dtype).set_(memory, tensor.storage_offset(), tensor.size(), tensor.stride())


def calls(code):
    """(kernel, names of the tensors passed) for each call of a kernel, in order."""
    return [(name, re.findall(r"\b(?:buf|arg)\w+", arguments)) for name, arguments in CALL.findall(code)]


def copies(code):
    """Everything that Inductor computes by itself; next to matrix products and our kernels, copies alone."""
    return re.findall(r"^ +(cpp_\w+|triton_\w+|aten\.clone\S*|aten\.copy\S*)\(", code, re.MULTILINE)


def square(rows=8, columns=8):
    return torch.randn(rows, columns)
