# SPDX-License-Identifier: Apache-2.0
"""What vLLM's compile cache knows us by."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helion_compile.configs.files import read_table, shipped_folder, table_paths, user_folder
from helion_compile.configs.gpu import Gpu
from helion_compile.definitions.fingerprint import digest_packages

__all__ = ["gpu", "identity"]

# Names of all kernels, as those of their files: the modules would import Helion.
_KERNELS = sorted(path.stem for path in (Path(__file__).parents[1] / "kernels" / "families").glob("[!_]*.py"))


def identity(options: Mapping[str, Any], for_gpu: Gpu | None = None) -> str:
    """A digest of all that decides what the pass makes of a graph and what runs for it, equal in every process.

    Our sources, the config tables, the versions of Helion, Triton and torch, the GPU (by default the one that vLLM uses),
    and ``options``.  It is asked for before vLLM has started its workers, so nothing here touches CUDA or imports Helion.
    """
    digest = hashlib.sha256()
    digest.update(digest_packages().encode())
    for folder in (user_folder(), shipped_folder()):
        for kernel in _KERNELS:
            for path in table_paths(folder, kernel):
                with contextlib.suppress(OSError, ValueError):  # it has no rows for the tables' reader either
                    content = read_table(path)
                    digest.update(f"{kernel}/{path.name} {len(content)}\0".encode() + content)
    versions = [f"{name} {_version(name)}" for name in ("helion", "triton", "torch")]
    digest.update(repr((versions, for_gpu or gpu(), sorted(options.items()))).encode())
    return digest.hexdigest()


def gpu() -> Gpu | None:
    """The GPU that vLLM will use, asked of the driver's management library; None if vLLM finds none."""
    from helion_compile.compat import current_platform

    if not current_platform.is_cuda():
        return None
    capability = current_platform.get_device_capability()
    return Gpu(current_platform.get_device_name(), (capability.major, capability.minor))


@functools.cache
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"
