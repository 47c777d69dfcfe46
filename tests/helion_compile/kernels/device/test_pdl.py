# SPDX-License-Identifier: Apache-2.0
"""Kernels that wait for the one before compile for GPUs that know no dependent launch, too."""

import ast
import inspect
import itertools
import textwrap

import pytest

from helion_compile import kernels
from helion_compile.configs.case import Case
from helion_compile.tune.compiling import Target
from helion_compile.tune.pool import CompilePool


@pytest.mark.parametrize("arch", [89, 90])
def test_it_compiles(arch, tmp_path):
    # Processes of pools are forked from one that has imported torch, where a process of its own would import it again.
    pool = CompilePool(1, ("helion_compile.kernels",), Target(arch, 108), {"TRITON_CACHE_DIR": str(tmp_path)})
    try:
        case = Case(hidden_size=4096, num_tokens=16, dtype="bf16", residual=False)
        done = pool.submit("norm_quant", case, {"block_sizes": [1, 1], "num_warps": 8}).result(timeout=250)
        assert not done.error and done.registers > 0
    finally:
        pool.stop()


@pytest.mark.parametrize("kernel", [getattr(kernels, name) for name in kernels.__all__], ids=lambda kernel: kernel.name)
def test_every_kernel_waits_before_its_first_access(kernel):
    """What the kernel before writes is not there earlier; nothing but a prefetch of weights may stand in front."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kernel.fn)))
    loops = [node for node in tree.body[0].body if isinstance(node, ast.For)]
    assert loops
    for loop in loops:
        before = list(itertools.takewhile(lambda line: line != "grid_dependency_wait()", map(ast.unparse, loop.body)))
        assert len(before) < len(loop.body), "it does not wait"
        allowed = ("launch_dependents()", "hl.inline_triton(PREFETCH,")
        assert all(line.startswith(allowed) for line in before), before
