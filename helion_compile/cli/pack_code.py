# SPDX-License-Identifier: Apache-2.0
"""``python -m helion_compile configs pack``: generated code of a cache folder goes beside the shipped tables."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import click

from helion_compile.cli.options import command

__all__ = ["main"]


@command(
    "configs pack",
    "Pack Helion's generated code, so that a start with these versions and kernels traces nothing. Run what is to start fast "
    "with HELION_COMPILE_CACHE_DIR=FOLDER before.",
    examples=("helion-compile configs pack /tmp/cache",),
)
@click.argument("folder", type=Path, metavar="FOLDER")
def main(options: SimpleNamespace) -> int:
    """Runs the command; returns 0, or 1 where there was nothing to pack."""
    if not options.folder.is_dir():
        print(f"configs pack: {options.folder} is no folder", file=sys.stderr)
        return 1

    from helion_compile import kernels
    from helion_compile.definitions import registry
    from helion_compile.runtime.codegen_cache import identify
    from helion_compile.runtime.shipped_code import pack_code

    ours = [registry.get_kernel(getattr(kernels, name).name) for name in kernels.__all__]
    written = pack_code(options.folder, {identify(kernel): kernel.name for kernel in ours})
    for packed in written:
        print(f"{packed.file}: code of {packed.codes} configs, {packed.size / 1024:.0f} kB")
    if not written:
        print(f"configs pack: {options.folder} has no code of the kernels as they are now", file=sys.stderr)
    return int(not written)
