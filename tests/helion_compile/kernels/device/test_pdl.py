# SPDX-License-Identifier: Apache-2.0
"""Kernels that wait for the one before compile for GPUs that know no dependent launch, too."""

import ast
import inspect
import itertools
import json
import os
import subprocess
import sys
import textwrap

import pytest

from helion_compile import kernels
from tests.support import ROOT

PROGRAM = """
import json, sys
from helion_compile.tune.compiling import Target, compile_config
facts = {"hidden_size": 4096, "num_tokens": 16, "dtype": "bf16", "residual": False}
done = compile_config(Target(int(sys.argv[1]), 108), "norm_quant", facts, {"block_sizes": [1, 1], "num_warps": 8})
print(json.dumps({"error": done.error, "registers": done.registers}))
"""


@pytest.mark.parametrize("arch", [89, 90])
def test_it_compiles(arch, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM, str(arch)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["error"] is None and told["registers"] > 0


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
