# SPDX-License-Identifier: Apache-2.0
"""Compiles one call of each kernel in the modules named on the command line, and tells what came out of Inductor's caches.

After ``--save FILE`` or ``--load FILE`` the caches' content goes to a file or comes from one, as from machine to machine.
Of modules behind ``--keys`` only the fingerprints are told: what is keyed by them is shown with the others.
Run by test_inductor_caches.py in processes of its own; prints one line of JSON: module -> what happened.
"""

import importlib
import json
import sys

import torch
from torch._dynamo.utils import counters
from torch._inductor.graph import GraphLowering

from helion_compile.configs.case import Case
from helion_compile.configs.gpu import Gpu
from helion_compile.kernels import quant

X = torch.linspace(-2, 2, 32).reshape(2, 16)
CASE, H200 = Case(hidden_size=16, num_tokens=2, dtype="bfloat16"), Gpu("NVIDIA H200", (9, 0))
generated = []


def counted(self, *args, codegen=GraphLowering.codegen, **kwargs):
    generated.append(self)
    return codegen(self, *args, **kwargs)


GraphLowering.codegen = counted


def happened(function, *args, backend):
    torch._dynamo.reset()
    counters.clear()
    generated.clear()
    result = torch.compile(function, backend=backend, fullgraph=True)(*args)
    expected = function(*args)
    return {
        "right": all(map(torch.equal, *map(torch.utils._pytree.tree_leaves, (result, expected)))),
        "generated": len(generated),
        "graphs": {name: counters["inductor"][f"fxgraph_cache_{name}"] for name in ("hit", "miss", "bypass")},
        "autograd": {name: counters["aot_autograd"][f"autograd_cache_{name}"] for name in ("hit", "miss", "bypass")},
    }


def quantised(x):
    """As plain code writes it; the fusion is `quant`."""
    scale = x.abs().amax(-1, keepdim=True).float() / 448.0
    return (x.float() / scale).clamp(-448.0, 448.0).to(torch.float8_e4m3fn), scale


def main(names):
    told = {}
    how, file, *rest = names
    if how in ("--save", "--load"):
        names = rest
    first_key = names.index("--keys") if "--keys" in names else len(names)
    names, keys = names[:first_key], names[first_key + 1 :]
    if how == "--load":
        with open(file, "rb") as artifacts:
            torch.compiler.load_cache_artifacts(artifacts.read())
    for name in names:
        kernel = importlib.import_module(name).kernel
        told[name] = happened(lambda x, kernel=kernel: kernel(x), X, backend="inductor")
    for name in names + keys:
        kernel = importlib.import_module(name).kernel
        told.setdefault(name, {})["fingerprints"] = [kernel.fingerprint, kernel.config_fingerprint]
    with torch.no_grad():
        told["backend"] = happened(quantised, X.bfloat16(), backend="helion")
    told["picked"] = dict(quant.table.pick(CASE, H200).config or {})
    if how == "--save":
        content, _ = torch.compiler.save_cache_artifacts()
        with open(file, "wb") as artifacts:
            artifacts.write(content)
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1:])
