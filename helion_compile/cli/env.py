# SPDX-License-Identifier: Apache-2.0
"""``python -m helion_compile env``: what a bug report needs to say of the machine.

``torch.utils.collect_env`` lists every package of torch's and runs programs to do so; it knows neither tables nor switches.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from types import SimpleNamespace

import torch

from helion_compile import compat
from helion_compile.cli.options import command
from helion_compile.configs.files import shipped_folder, table_files, user_folder
from helion_compile.configs.gpu import Gpu
from helion_compile.definitions import registry
from helion_compile.fusions import CATALOGUE, NUMERICS, fusions

__all__ = ["describe", "main"]

_PACKAGES = ("helion-compile", "triton", "helion", "transformers", "torchao", "vllm", "depyf")
_TESTED = {"torch": compat.TORCH, "triton": compat.TRITON, "helion": compat.HELION, "vllm": compat.VLLM}
_VARIABLES = ("HELION_", "TORCHINDUCTOR_", "TORCH_", "TRITON_", "CUDA_VISIBLE_DEVICES", "PYTORCH_")


def describe() -> str:
    """The whole text."""
    return "\n".join(f"{name:16}{text}" for name, text in _lines())


@command("env", __doc__.partition("\n\n")[0])
def main(options: SimpleNamespace) -> int:
    print(describe())
    return 0


def _lines() -> Iterator[tuple[str, str]]:
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for package in ("torch", *_PACKAGES):
        tested = f"; tested with {', '.join(_TESTED[package])}" if package in _TESTED else ""
        yield package, f"{_version(package)}{tested}"
    yield from _gpus()
    yield from _tables()
    modules = {module.__name__.rpartition(".")[2]: [kernel.short_key for kernel in module.KERNELS] for module in CATALOGUE}
    yield "fusions", ", ".join(fusion.name for fusion in fusions()) + f"; numerics: {' or '.join(NUMERICS)}"
    for name, keys in modules.items():
        yield "", f"{name}: {', '.join(keys)}"
    yield from _switches()


def _version(package: str) -> str:
    if package == "torch":
        return torch.__version__  # which names the build; the metadata may not
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        if package == "helion-compile":
            return "not installed, imported from a folder"
        return "not installed"


def _gpus() -> Iterator[tuple[str, str]]:
    if not torch.cuda.is_available():
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build without CUDA"
        yield "GPU", f"none that torch sees ({build}): kernels run as their reference"
        return
    yield "CUDA", f"{torch.version.cuda}{f', HIP {torch.version.hip}' if torch.version.hip else ''}"
    for index in range(torch.cuda.device_count()):
        gpu = Gpu.current(index)
        memory = torch.cuda.get_device_properties(index).total_memory / 2**30
        yield f"GPU {index}", f"{gpu.name}, {gpu.arch}, {memory:.0f} GiB"


def _tables() -> Iterator[tuple[str, str]]:
    folders = (user_folder(), shipped_folder())
    yield "tables", f"of the user: {folders[0]}{'' if folders[0].is_dir() else ' (not there)'}"
    here = Gpu.current() if torch.cuda.is_available() else None
    import helion_compile.kernels  # noqa: F401  registers them

    for kernel in sorted(registry.list_kernels(), key=lambda kernel: kernel.short_name):
        found = [f"{file.path.stem} {len(file.rows)} rows" for file in table_files(folders, kernel.short_name)]
        usable = "" if here is None else f"; {len(kernel.table.rows(here))} for this GPU and this version of the kernel"
        yield "", f"{kernel.short_name}: {', '.join(found) or 'none, its default config'}{usable}"
        for problem in kernel.table.problems:
            yield "", f"  {problem}"


def _switches() -> Iterator[tuple[str, str]]:
    from helion_compile.compat import inductor_config
    from helion_compile.vllm.options import SWITCH, wanted

    known = "known" if "helion" in compat.dynamo.list_backends(None) else "not known: its entry point comes with an install"
    yield "torch.compile", f"backend='helion' is {known}"
    yield "vLLM", "its compiler runs the pass too" if wanted() else f"without the pass, which {SWITCH}=1 puts there"
    caches = f"fx_graph_cache={inductor_config.fx_graph_cache}, force_disable_caches={inductor_config.force_disable_caches}"
    yield "Inductor", f"{caches}, cpp_wrapper={inductor_config.cpp_wrapper}"
    pre = inductor_config.post_grad_custom_pre_pass
    yield "", f"post_grad_custom_pre_pass={'none' if pre is None else type(pre).__name__}"
    chosen = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES)]
    yield "environment", ", ".join(chosen) or "none of our, torch's or Triton's variables is set"
