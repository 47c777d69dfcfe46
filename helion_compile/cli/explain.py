# SPDX-License-Identifier: Apache-2.0
"""what is fused in a Hugging Face model, from its config alone: random weights of few layers, or a checkpoint's own."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import click

from helion_compile.cli.errors import CommandError, in_a_line
from helion_compile.cli.options import command, count, output_file
from helion_compile.cli.progress import show_phase

if TYPE_CHECKING:
    import torch

    from helion_compile.reports import Report

__all__ = ["SCHEMES", "main"]

SCHEMES = ("none", "fp8-row", "fp8-tensor", "fp8-static", "fp8-group", "fp8-block", "int8-row", "int8")


@command(
    "explain",
    __doc__,
    examples=(
        "helion-compile explain --model config.json --quantize fp8-row --html report.html",
        "helion-compile explain --model Qwen/Qwen3-8B --quantize fp8-row --gpu h200",
        "helion-compile explain --model path/of/a/checkpoint --layers 2 --dynamic",
    ),
)
@click.option(
    "--model",
    required=True,
    metavar="CONFIG.json|FOLDER|NAME",
    help="a config.json, or a name of the hub: random weights, a small vocabulary; or a checkpoint folder: its weights and "
    "quantisation",
)
@click.option("--quantize", type=click.Choice(SCHEMES), default="none", help="quantise the linears first; int8 is int8-row")
@click.option("--layers", type=count, metavar="N", help="keep the first N layers; by default 2 of a config, all of a folder")
@click.option(
    "--shape", type=count, nargs=2, default=(2, 16), metavar="B T", help="of the token ids: sequences, tokens of each"
)
@click.option("--dynamic", is_flag=True, help="with symbolic sizes, as for a server")
@click.option("--numerics", type=click.Choice(("default", "exact")), default="default", help="which rounding kernels do")
@click.option("--verify", is_flag=True, help="run each fused site against the original")
@click.option("--device", help="where the model is; by default the GPU, or the CPU where there is none")
@click.option("--gpu", metavar="NAME", help="choose as on this GPU and tell the times of its tables, such as h200")
@click.option("--html", type=output_file, metavar="FILE", help="write the report as a page, too")
@click.option("--json", type=output_file, metavar="FILE", help="write the report as JSON, too")
def main(options: SimpleNamespace) -> int:
    import logging
    import warnings

    # torchao tells of optional CUDA libraries, and torch of how torchao registers its enums: of no use to a reader here.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with show_phase("loading torch"):
            _check(options)
            from helion_compile.cli.models import make_model

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with show_phase("loading the model" + (" and quantising it" if options.quantize != "none" else "")):
                model = make_model(options)
            with show_phase("tracing the model and matching its graphs"):
                report = _explain(model, options)
    except CommandError as error:
        print(f"explain: {error}", file=sys.stderr)
        return 1
    report.print()
    with show_phase("writing"):
        if options.html:
            report.to_html(options.html)
        if options.json:
            options.json.write_text(report.to_json(indent=1), encoding="utf-8")
    return 0


def _check(options: SimpleNamespace) -> None:
    """What would fail only after the model was made and traced."""
    import torch

    from helion_compile.configs.gpu import Gpu

    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        raise CommandError(
            f"--device {options.device} is none that torch {torch.__version__} can use here: {in_a_line(error)}; give "
            f"--device cpu"
        ) from None
    if options.gpu is not None:
        try:
            Gpu.named(options.gpu)
        except ValueError as error:
            raise CommandError(f"--gpu {options.gpu}: {error}") from None


def _explain(model: torch.nn.Module, options: SimpleNamespace) -> Report:
    import torch

    from helion_compile.cli.models import make_inputs
    from helion_compile.frontend.explain import explain

    inputs = make_inputs(model, options)
    with torch.no_grad():
        try:
            return explain(
                model,
                dynamic=True if options.dynamic else None,
                options={"numerics": options.numerics},
                verify=options.verify,
                gpu=options.gpu,
                **inputs,
            )
        except Exception as error:
            try:
                model(**inputs)
            except Exception as own:
                raise CommandError(_why_not(options, inputs, own)) from error
            raise


def _why_not(options: SimpleNamespace, inputs: dict[str, torch.Tensor], error: Exception) -> str:
    """Why a model runs neither compiled nor not, and what to choose."""
    name, value = next(iter(inputs.items()))
    what = "token ids" if name == "input_ids" else name
    told = f"the model of {Path(options.model)} cannot be run on {what} of shape {list(value.shape)}, compiled or not"
    quantised = options.quantize != "none" and isinstance(error, (NotImplementedError, TypeError, AttributeError))
    advice = (
        f"--quantize {options.quantize} does not fit this model, choose another scheme or none"
        if quantised
        else ("choose another --shape")
    )
    return f"{told}: {in_a_line(error)}; {advice}"
