# SPDX-License-Identifier: Apache-2.0
"""What ``bench kernels`` and ``bench chains`` have in common beside their rows: options, what they need, and how they end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import click

from helion_compile.bench import plots
from helion_compile.bench.rows import Rows
from helion_compile.bench.timing import copy_bandwidth, product_rate, require_gpu
from helion_compile.bench.vllm_library import MissingLibrary, load
from helion_compile.bench.work import Limits
from helion_compile.cli.options import json_option

__all__ = ["begin", "end", "options"]


def options(command: Any) -> Any:
    """Decorate a command with the options that both have."""
    for decorate in (
        click.option(
            "--plot", type=plots.file_prefix, metavar="PREFIX", help="draw PREFIX-speedup and PREFIX-roofline: SVG, PNG"
        ),
        json_option("write the rows to this file, each when it is there"),
        click.option(
            "--vllm", is_flag=False, flag_value="", metavar="[FILE]", help="vLLM's operators too; FILE is their library"
        ),
    ):
        command = decorate(command)
    return command


def begin(command: str, options: SimpleNamespace, products: bool) -> Rows:
    """No rows yet; exits with a sentence where something is missing.

    Args:
        products: whether the limit of GEMMs is to be measured too.
    """
    require_gpu(command)
    if options.plot:
        plots.require()
    if options.vllm is not None:
        try:
            load(options.vllm or None)
        except MissingLibrary as error:
            raise click.UsageError(str(error)) from None
    return Rows(Limits(copy_bandwidth(), product_rate() if products else None), options.json)


def end(rows: Rows, options: SimpleNamespace) -> int:
    """Sum the rows up and draw them; the exit code."""
    code = rows.end()
    if options.plot:
        plots.draw(rows.rows, rows.limits, options.plot)
    return code
