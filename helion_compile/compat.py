# SPDX-License-Identifier: Apache-2.0
"""The versions that this package was tested with, and each private name of torch, Triton, Helion and vLLM that it uses.

No other file names one (``tests/test_private_imports.py``); a name is imported from here::

    from helion_compile.compat import PyCodeCache

It is looked up when a file first asks for it: Inductor and Dynamo take seconds to import, and vLLM need not be there.  What
is not there is an ImportError that says the versions.  To support another version, add it to the list of its library, and
run ``tests/helion_compile/test_compat.py`` with it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any, NamedTuple

from helion_compile.passes.compat import TORCH, VLLM

__all__ = [
    "ATTRIBUTES",
    "CUDA_NAMES",
    "HELION",
    "NAMES",
    "TORCH",
    "TRITON",
    "VLLM",
    "VLLM_CLONE_ELIMINATION",
    "VLLM_GPU_WORKER",
    "PrivateName",
    "find_name",
]

TRITON = ("3.6.0", "3.9.0")
HELION = ("1.4.0", "1.5.1")


class PrivateName(NamedTuple):
    """Where a name is, and the versions that were seen to have it."""

    module: str
    attribute: str  # dotted; "" for the module itself
    versions: tuple[str, ...]


def _list_names(versions: tuple[str, ...], paths: Mapping[str, str]) -> dict[str, PrivateName]:
    """Names by what they are called here, from "module:attribute"."""
    return {
        name: PrivateName(module, attribute, versions)
        for name, path in paths.items()
        for module, _, attribute in [path.partition(":")]
    }


NAMES: dict[str, PrivateName] = {
    **_list_names(
        TORCH,
        {
            # Dispatch: which calls are traced, and by whom.
            "AutoDispatchBelowAutograd": "torch._C:_AutoDispatchBelowAutograd",
            "DataDependentOutputException": "torch._subclasses.fake_tensor:DataDependentOutputException",
            "DispatchKey": "torch._C:DispatchKey",
            "DynamicOutputShapeException": "torch._subclasses.fake_tensor:DynamicOutputShapeException",
            "FakeTensor": "torch._subclasses.fake_tensor:FakeTensor",
            "FakeTensorMode": "torch._subclasses.fake_tensor:FakeTensorMode",
            "FunctionalTensorMode": "torch._subclasses.functional_tensor:FunctionalTensorMode",
            "HigherOrderOperator": "torch._ops:HigherOrderOperator",
            "OpOverload": "torch._ops:OpOverload",
            "TorchDispatchMode": "torch.utils._python_dispatch:TorchDispatchMode",
            "count_dispatch_modes": "torch._C:_len_torch_dispatch_stack",
            "count_pre_dispatch_modes": "torch._ops:_len_torch_dispatch_stack_pre_dispatch",
            "disable_current_modes": "torch.utils._python_dispatch:_disable_current_modes",
            "get_dispatch_modes": "torch.utils._python_dispatch:_get_current_dispatch_mode_stack",
            "get_pre_dispatch_mode": "torch._ops:_get_current_dispatch_mode_pre_dispatch",
            "is_batched_tensor": "torch._C._functorch:is_batchedtensor",
            "is_dispatch_key_included": "torch._C:_dispatch_tls_is_dispatch_key_included",
            "is_traceable_wrapper_subclass": "torch.utils._python_dispatch:is_traceable_wrapper_subclass",
            "tree_leaves": "torch.utils._pytree:tree_leaves",
            "tree_map": "torch.utils._pytree:tree_map",
            "unset_fake_temporarily": "torch._subclasses.fake_tensor:unset_fake_temporarily",
            # Launching.
            "RecordFunction": "torch._C._profiler:_RecordFunctionFast",
            "StaticCudaLauncher": "torch._C:_StaticCudaLauncher",
            "allocate_cuda": "torch._C._dynamo.guards:_empty_strided_cuda",
            "get_cuda_device": "torch._C:_cuda_getDevice",
            "symmetric_memory": "torch.distributed._symmetric_memory:",
            "get_process_group_store": "torch.distributed.distributed_c10d:_get_process_group_store",
            "get_raw_stream": "torch._C:_cuda_getCurrentRawStream",
            "is_stream_capturing": "torch._C:_cuda_isCurrentStreamCapturing",
            # Dynamo.
            "AttrSource": "torch._dynamo.source:AttrSource",
            "CompileContext": "torch._guards:CompileContext",
            "ConstantVariable": "torch._dynamo.variables:ConstantVariable",
            "ContinueExecutionCache": "torch._dynamo.resume_execution:ContinueExecutionCache",
            "FrameAction": "torch._dynamo.types:FrameAction",
            "FrameExecStrategy": "torch._dynamo.types:FrameExecStrategy",
            "GuardBuilder": "torch._dynamo.guards:GuardBuilder",
            "InstructionTranslator": "torch._dynamo.symbolic_convert:InstructionTranslator",
            "LocalSource": "torch._dynamo.source:LocalSource",
            "OptimizeContext": "torch._dynamo.eval_frame:OptimizeContext",
            "TensorPropertySource": "torch._dynamo.source:TensorPropertySource",
            "TracingContext": "torch._guards:TracingContext",
            "TupleVariable": "torch._dynamo.variables:TupleVariable",
            "VariableBuilder": "torch._dynamo.variables.builder:VariableBuilder",
            "VariableTracker": "torch._dynamo.variables.base:VariableTracker",
            "dynamo": "torch._dynamo:",
            "dynamo_config": "torch._dynamo.config:",
            "innermost_backend": "torch._dynamo.eval_frame:innermost_backend",
            "set_code_exec_strategy": "torch._C._dynamo.eval_frame:set_code_exec_strategy",
            "trace_structured": "torch._logging:trace_structured",
            "tracing": "torch._guards:tracing",
            "unimplemented": "torch._dynamo.exc:unimplemented",
            "wrap_fx_proxy": "torch._dynamo.variables.builder:wrap_fx_proxy",
            # Inductor.
            "CompileInductorWrapper": "torch:_TorchCompileInductorWrapper",
            "CustomGraphPass": "torch._inductor.custom_graph_pass:CustomGraphPass",
            "OrderedSet": "torch.utils._ordered_set:OrderedSet",
            "PyCodeCache": "torch._inductor.codecache:PyCodeCache",
            "V": "torch._inductor.virtualized:V",
            "aoti_compile_and_package": "torch._inductor:aoti_compile_and_package",
            "cache_dir": "torch._inductor.runtime.cache_dir_utils:cache_dir",
            "compile_fx": "torch._inductor.compile_fx:compile_fx",
            "fake_tensor_prop": "torch._inductor.compile_fx:fake_tensor_prop",
            "fallback_handler": "torch._inductor.lowering:fallback_handler",
            "fallbacks": "torch._inductor.lowering:fallbacks",
            "fresh_cache": "torch._inductor.utils:fresh_cache",
            "functorch_config": "torch._functorch.config:",
            "inductor_config": "torch._inductor.config:",
            "ir": "torch._inductor.ir:",
            "list_inductor_options": "torch._inductor:list_options",
            "kernel_side_table": "torch._higher_order_ops.triton_kernel_wrap:kernel_side_table",
            "lower_clone": "torch._inductor.lowering:clone",
            "lower_empty_strided": "torch._inductor.lowering:empty_strided",
            "lower_full": "torch._inductor.lowering:full",
            "lowerings": "torch._inductor.lowering:lowerings",
            "process_subgraph_nodes": "torch._inductor.lowering:process_subgraph_nodes",
            "register_lowering": "torch._inductor.lowering:register_lowering",
            "select_decompositions": "torch._inductor.decomposition:select_decomp_table",
            "reorder_for_locality": "torch._inductor.fx_passes.post_grad:reorder_for_locality",
            "stable_topological_sort": "torch._inductor.pattern_matcher:stable_topological_sort",
            "sympy_functions": "torch.utils._sympy.functions:",
            "view_to_reshape": "torch._inductor.fx_passes.post_grad:view_to_reshape",
        },
    ),
    **_list_names(
        TRITON,
        {
            "DriverBase": "triton.backends.driver:DriverBase",
            "GPUTarget": "triton.backends.compiler:GPUTarget",
            "OutOfResources": "triton.runtime.errors:OutOfResources",
            "triton_driver": "triton.runtime.driver:driver",
            "triton_knobs": "triton.knobs:",
        },
    ),
    **_list_names(
        HELION,
        {
            "helion": "helion:",  # public; asked for here, so that one that does not fit torch is said in a sentence
            "helion_runtime": "helion.runtime:",
        },
    ),
    **_list_names(
        VLLM,
        {
            "CUDAGraphMode": "vllm.config:CUDAGraphMode",
            "CompilationMode": "vllm.config:CompilationMode",
            "InductorPass": "vllm.compilation.passes.inductor_pass:InductorPass",
            "VllmConfig": "vllm.config:VllmConfig",
            "current_platform": "vllm.platforms:current_platform",
            "get_world_group": "vllm.distributed.parallel_state:get_world_group",
            "resolve_obj_by_qualname": "vllm.utils.import_utils:resolve_obj_by_qualname",
            "vllm_custom_ops": "vllm._custom_ops:",
            "vllm_envs": "vllm.envs:",
            "vllm_quant_keys": "vllm.model_executor.layers.quantization.utils.quant_utils:",
        },
    ),
}

# Those that a build of torch without CUDA may lack.
CUDA_NAMES = frozenset({"StaticCudaLauncher", "allocate_cuda", "get_cuda_device", "get_raw_stream", "is_stream_capturing"})

# Attributes that are private or not documented, of objects that a public call or a name above gives.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "torch.UntypedStorage._cdata": TORCH,
    "torch.autograd.forward_ad._current_level": TORCH,
    "torch.autograd.profiler._is_profiler_enabled": TORCH,
    "torch.cuda._sleep": TORCH,
    "torch.fx.Node._dynamo_source": ("2.11.0", "2.13.0"),  # later torch takes subclasses apart itself
    "torch.fx.GraphModule._param_name_to_source": ("2.11.0", "2.13.0"),
    "torch.nn.Module._compiled_call_impl": TORCH,
    "torch._dynamo.backends.registry._BACKENDS": TORCH,
    "torch._dynamo.backends.registry._COMPILER_FNS": TORCH,
    "Node.target._inductor_lowering_function": TORCH,
    "OpOverload._overloadpacket": TORCH,
    "OpOverload._schema": TORCH,
    "StaticCudaLauncher._launch_kernel": TORCH,
    "VariableBuilder._type_dispatch_impl": TORCH,
    "triton.JITFunction.run": TRITON,  # with warmup=True
    "triton.CompiledKernel.launch_metadata": TRITON,
    "triton.CompiledKernel.metadata": TRITON,
    "triton.CompiledKernel.run": TRITON,
    "triton_driver.active.utils.load_binary": TRITON,
    "triton_driver.set_active": TRITON,
    "helion.ConfigSpec.create_config_generation": HELION,
    "helion.Kernel._base_specialization_key": HELION,
    "helion.Kernel._compute_is_distributed": ("1.4.0",),
    "helion.Kernel._key_fn": HELION,
    "helion.Kernel._declares_process_group": ("1.4.0",),
    "helion.BoundKernel.env": HELION,
    "helion.BoundKernel.fake_args": HELION,
    "helion.BoundKernel.get_cached_path": HELION,
    "helion_runtime.get_num_sm": HELION,
    "vllm.GPUModelRunner._dummy_run": VLLM,
    "vllm.GPUModelRunner.eplb.suppress": ("0.33.0",),
    "current_platform.get_pass_manager_cls": VLLM,
    "PostGradPassManager.configure": VLLM,
    "VllmConfig.compute_hash": VLLM,
}

# Modules of vLLM that are changed once vLLM has imported them.
VLLM_CLONE_ELIMINATION = "vllm.compilation.passes.ir.clone_elimination"  # user_writes_to_node
VLLM_GPU_WORKER = "vllm.v1.worker.gpu_worker"  # Worker.compile_or_warm_up_model


def find_name(name: str, otherwise: Any) -> Any:
    """The private name, or ``otherwise`` where this build of its library has none."""
    try:
        return __getattr__(name)
    except (AttributeError, ImportError):
        return otherwise


def _import_helion() -> Any:
    """Helion, or an ImportError that says which one fits: no dependency can tell pip which Helion goes with which torch."""
    try:
        return importlib.import_module("helion")
    except ImportError as error:
        found = {library: importlib.metadata.version(library) for library in ("helion", "torch")}
        raise ImportError(
            f"Helion {found['helion']} cannot be imported beside torch {found['torch']}: {error}. Helion 1.5 needs torch 2.13 "
            f"or newer; for an older torch: pip install 'helion<1.5'. Tested are Helion {', '.join(HELION)}."
        ) from error


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute, versions = NAMES[name]
    try:
        value: Any = _import_helion() if name == "helion" else importlib.import_module(module)
        for part in filter(None, attribute.split(".")):
            value = getattr(value, part)
    except AttributeError as error:
        raise AttributeError(f"{error}; helion_compile was tested with {module} of {', '.join(versions)}") from None
    return value
