# SPDX-License-Identifier: Apache-2.0
"""What ``bench kernels`` and ``bench chains`` have in common beside their rows: options, what they need, and how they end."""

from __future__ import annotations

import argparse

from helion_compile.bench import plots
from helion_compile.bench.rows import Rows
from helion_compile.bench.timing import copy_bandwidth, product_rate, require_gpu
from helion_compile.bench.vllm_library import MissingLibrary, load
from helion_compile.bench.work import Limits
from helion_compile.cli.options import output_file

__all__ = ["add_options", "begin", "end"]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vllm", nargs="?", const="", metavar="FILE", help="vLLM's operators too; FILE is their library")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the rows to this file, each when it is there")
    parser.add_argument(
        "--plot", type=plots.file_prefix, metavar="PREFIX", help="draw PREFIX-speedup and PREFIX-roofline as SVG and PNG"
    )


def begin(command: str, parser: argparse.ArgumentParser, options: argparse.Namespace, products: bool) -> Rows:
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
            parser.error(str(error))
    return Rows(Limits(copy_bandwidth(), product_rate() if products else None), options.json)


def end(rows: Rows, options: argparse.Namespace) -> int:
    """Sum the rows up and draw them; the exit code."""
    code = rows.end()
    if options.plot:
        plots.draw(rows.rows, rows.limits, options.plot)
    return code
