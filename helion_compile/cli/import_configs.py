# SPDX-License-Identifier: Apache-2.0
"""``python -m helion_compile configs import``: config files of vLLM's Helion kernels become rows of a table."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from helion_compile.cli.options import command
from helion_compile.configs.case import Case
from helion_compile.configs.files import parse_value
from helion_compile.configs.gpu import Gpu, arch_of, slug
from helion_compile.configs.import_vllm import read_vllm_file
from helion_compile.configs.row import ConfigError
from helion_compile.configs.table import ConfigTable
from helion_compile.errors import truncate

__all__ = ["main"]


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise click.BadParameter(f"{text!r} is not NAME=VALUE")
    return name, value


def _field(text: str) -> tuple[str, Any]:
    name, value = _assignment(text)
    field = parse_value(value)
    try:
        Case(**{name: field})
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return name, field


def _capability(text: str) -> tuple[int, int]:
    major, dot, minor = text.partition(".")
    if not (major.isdecimal() and dot and minor.isdecimal()):
        raise click.BadParameter(f"{text!r} is not a compute capability like 9.0")
    return int(major), int(minor)


@command(
    "configs import", __doc__, examples=["helion-compile configs import rms_norm.json --kernel norm_quant --gpu 'NVIDIA H100'"]
)
@click.argument("files", nargs=-1, required=True, type=Path, metavar="FILE")
@click.option("--kernel", required=True, help="the kernel that gets the configs, such as norm_quant")
@click.option("--gpu", required=True, help="the GPU they were tuned on, such as 'NVIDIA H100'")
@click.option("--capability", type=_capability, metavar="9.0", help="its compute capability, if not well known")
@click.option("--rename", multiple=True, type=_assignment, metavar="THEIRS=OURS", help="a key field's other name")
@click.option("--set", multiple=True, type=_field, metavar="FIELD=VALUE", help="a key field that every row gets")
def main(options: SimpleNamespace) -> int:
    """Runs the command; returns 0, or 1 when a file gave no rows or the table could not be written."""
    try:
        gpu = _gpu(options.gpu, options.capability)
        table = ConfigTable(options.kernel)
        renames = {"numtokens": "num_tokens", **dict(options.rename)}
        failed = False
        for file in options.files:
            rows, skipped = read_vllm_file(file, gpu, renames, dict(options.set))
            for sentence in skipped:
                print(sentence, file=sys.stderr)
            failed |= not rows
            if rows:
                path = table.add(rows, gpu)
                print(f"{len(rows)} rows of {file} are now in {path}; they count after rows tuned for this kernel")
    except (ConfigError, ValueError) as error:
        print(f"configs import: {error}", file=sys.stderr)
        return 1
    return int(failed)


def _gpu(name: str, capability: tuple[int, int] | None) -> Gpu:
    if capability is None:
        arch = arch_of(slug(name))
        if arch is None:
            raise ConfigError(f"the compute capability of {truncate(name)} is not known: give it, as in --capability 9.0")
        digits = arch.removeprefix("sm_")
        capability = int(digits[:-1]), int(digits[-1])
    return Gpu(name, capability)
