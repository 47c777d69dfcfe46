# SPDX-License-Identifier: Apache-2.0
"""The C++ that Inductor writes for a GPU that this machine need not have: lowering and code generation, and nothing run.

Private interfaces: ``GraphLowering``, and what Inductor asks of a CUDA device.
"""

import ast
import contextlib
import re
from types import SimpleNamespace
from unittest import mock

import torch
import triton
from torch._dynamo.device_interface import CudaInterface
from torch._dynamo.source import ConstantSource
from torch._inductor import config
from torch._inductor.codecache import PyCodeCache
from torch._inductor.debug import DebugContext
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime.hints import DeviceProperties
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from triton.backends.compiler import GPUTarget

from helion_compile.configs.gpu import Gpu
from helion_compile.tune.compiling import SHIPPED_TARGETS, pretend
from tests.support.gpus import H200

__all__ = ["compile_kernels", "list_launches", "write_cpp"]

PROPERTIES = SimpleNamespace(
    name="NVIDIA H200", major=9, minor=0, multi_processor_count=132, warp_size=32, max_threads_per_multi_processor=2048
)


def _properties(device):
    return DeviceProperties(
        type="cuda",
        index=0,
        multi_processor_count=132,
        cc=90,
        major=9,
        regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=2048,
        warp_size=32,
    )


def _trace(function, args, dynamic):
    """The graph of ``function`` with its tensors on ``cuda:0``; the dimensions in ``dynamic`` are symbols."""
    shape_env = ShapeEnv()
    mode = FakeTensorMode(shape_env=shape_env, allow_non_fake_inputs=True)
    fakes = []
    for index, arg in enumerate(args):
        kinds = [DimDynamic.DYNAMIC if (index, dim) in dynamic else DimDynamic.STATIC for dim in range(arg.dim())]
        context = StatelessSymbolicContext(dynamic_sizes=kinds)
        fakes.append(mode.from_tensor(arg, symbolic_context=context, source=ConstantSource(f"x{index}")))

    def there(value):
        if not isinstance(value, torch.Tensor):
            return value
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda:0")

    # On the CPU first: a torch without CUDA indexes no tensor that lies elsewhere, not even a fake one.
    with mode, torch.no_grad():
        module = make_fx(function, tracing_mode="real")(*fakes)
        module.graph.eliminate_dead_code()
        for node in module.graph.nodes:
            if "val" in node.meta:
                node.meta["val"] = torch.utils._pytree.tree_map(there, node.meta["val"])
    return module, mode, shape_env


def write_cpp(monkeypatch, function, *args, dynamic=()):
    """The C++ wrapper of ``function`` for an H200.

    Args:
        args: CPU tensors, whose values do not count.
        dynamic: (argument, dimension) pairs that are symbols.
    """
    pretend(SHIPPED_TARGETS["nvidia_h200"])
    monkeypatch.setattr(Gpu, "current", classmethod(lambda cls: H200))
    module, mode, shape_env = _trace(function, args, dynamic)
    inputs = [node.meta["val"] for node in module.graph.find_nodes(op="placeholder")]
    with contextlib.ExitStack() as stack:
        for change in (
            config.patch({"cpp_wrapper": True, "triton.autotune_at_compile_time": False}),
            mock.patch.object(DeviceProperties, "create", _properties),
            mock.patch.object(CudaInterface.Worker, "get_device_properties", staticmethod(lambda *_: PROPERTIES)),
            mock.patch.object(CudaInterface, "get_compute_capability", staticmethod(lambda *_: 90)),
            mock.patch("torch.cuda.get_device_properties", lambda *_: PROPERTIES),
            mock.patch("torch.cuda.get_device_capability", lambda *_: (9, 0)),
            mock.patch("torch.cuda.current_device", lambda: 0),
            mock.patch("torch._inductor.scheduler.has_triton", lambda *_: True),
        ):
            stack.enter_context(change)
        graph = GraphLowering(module, example_inputs=inputs, shape_env=shape_env, cpp_wrapper=True, is_inference=True)
        with V.set_debug_handler(DebugContext()), V.set_fake_mode(mode), V.set_graph_handler(graph):
            graph.run(*inputs)
            code = graph.codegen()[0]
    return getattr(code, "value", code)


def list_launches(code):
    """(kernel, arguments) for each launch of one of our kernels in the C++, in order."""
    found = []
    for kernel, rest in re.findall(r"call__helion_(\w+?)_\d+\((.*), 0, stream0\);", code):
        arguments, depth = [""], 0
        for letter in rest:
            depth += (letter in "(<") - (letter in ")>")
            if letter == "," and not depth:
                arguments.append("")
            else:
                arguments[-1] += letter
        found.append((kernel, [argument.strip() for argument in arguments]))
    return found


def compile_kernels(code):
    """PTX for sm_90 of each of our Triton kernels in the C++, by name, with the signature and options that stand there."""
    found = {}
    for text in re.findall(r"async_compile\.triton\('_helion\w+', '''\n.*?''', device_str='cuda'\)", code, re.DOTALL):
        source = ast.parse(text).body[0].value.args[1].value
        tree = ast.parse(source)
        (function,) = (
            each
            for each in tree.body
            if isinstance(each, ast.FunctionDef) and each.name.startswith("_helion_") and each.decorator_list[1:]
        )
        given = {
            each.arg: eval(ast.unparse(each.value), {"DeviceProperties": DeviceProperties, "__file__": ""})
            for each in function.decorator_list[0].keywords
        }
        function.decorator_list = function.decorator_list[1:]
        kernel = getattr(PyCodeCache.load(ast.unparse(tree)), function.name)
        meta, options = given["triton_meta"], given["configs"][0]
        names = list(meta["signature"])
        source = triton.compiler.ASTSource(
            kernel,
            meta["signature"],
            {(names.index(name),): value for name, value in meta["constants"].items()},
            dict(meta["configs"][0]),
        )
        done = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(options))
        found[function.name] = done.asm["ptx"]
    return found
