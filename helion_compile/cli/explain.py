# SPDX-License-Identifier: Apache-2.0
"""``python -m helion_compile explain``: the report of a Hugging Face causal language model, from its config alone."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from helion_compile.cli.options import count, output_file
from helion_compile.frontend.explain import explain
from helion_compile.fusions import NUMERICS
from helion_compile.reports import Report

__all__ = ["main"]

# name -> the torchao config that `--quantize NAME` applies to the linears but lm_head
QUANTIZE: dict[str, Callable[[], Any]] = {
    "fp8-row": lambda: _torchao().Float8DynamicActivationFloat8WeightConfig(granularity=_torchao().PerRow()),
    "fp8-tensor": lambda: _torchao().Float8DynamicActivationFloat8WeightConfig(granularity=_torchao().PerTensor()),
    "int8": lambda: _torchao().Int8DynamicActivationInt8WeightConfig(),
}
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_VOCABULARY = 1024  # of a model made from its config: embedding and lm_head are not what a report is about


class CommandError(ValueError):
    """The command was asked for something that it cannot do, in one sentence."""


def main(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    # torchao tells of optional CUDA libraries, and torch of how torchao registers its enums: of no use to a reader here.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        _check(options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = _model(options)
            report = _explain(model, options)
    except CommandError as error:
        print(f"explain: {error}", file=sys.stderr)
        return 1
    report.print()
    if options.html:
        report.to_html(options.html)
    if options.json:
        options.json.write_text(report.to_json(indent=1), encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m helion_compile explain", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="CONFIG.json|FOLDER",
        help="a config.json: random weights, a small vocabulary; or a checkpoint folder: its weights and quantisation",
    )
    parser.add_argument("--quantize", choices=(*QUANTIZE, "none"), default="none", help="quantise the linears first")
    parser.add_argument(
        "--layers", type=count, metavar="N", help="keep the first N layers (default: 2 of a config, all of a folder)"
    )
    parser.add_argument("--shape", type=count, nargs=2, default=(2, 16), metavar=("B", "T"), help="of the token ids")
    parser.add_argument("--dynamic", action="store_true", help="with symbolic sizes, as for a server")
    parser.add_argument("--numerics", choices=NUMERICS, default="default")
    parser.add_argument("--verify", action="store_true", help="run each fused site against the original")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--html", type=output_file, metavar="FILE", help="write the report as a page, too")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the report as JSON, too")
    return parser


def _check(options: argparse.Namespace) -> None:
    """What would fail only after the model was made and traced."""
    if not options.model.exists():
        raise CommandError(f"there is no {options.model}; name a config.json, or the folder of a checkpoint")
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        raise CommandError(
            f"--device {options.device} is none that torch {torch.__version__} can use here: {_in_a_line(error)}; give "
            f"--device cpu"
        ) from None


def _in_a_line(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" …").rstrip(".")


def _model(options: argparse.Namespace) -> torch.nn.Module:
    try:
        import transformers
    except ImportError:
        raise CommandError("a model is made by transformers, which is not installed: pip install transformers") from None
    if options.model.is_dir() and any(file for name in _WEIGHTS for file in options.model.glob(name)):
        layers = {} if options.layers is None else {"num_hidden_layers": options.layers}
        made, source = transformers.AutoModelForCausalLM.from_pretrained, options.model
        more = {"local_files_only": True, **layers}
    else:
        made, source, more = transformers.AutoModelForCausalLM.from_config, _config(options), {}
    try:
        model = made(source, dtype=torch.bfloat16, **more)
    except Exception as error:  # of transformers, about what the files say
        raise CommandError(
            f"transformers {transformers.__version__} makes no causal language model of {options.model}: "
            f"{_in_a_line(error)}; helion_compile.explain(model, *inputs) takes any module"
        ) from error
    model.config.get_text_config().use_cache = False  # a KV cache is state of Python that the chains do not depend on
    model = model.to(options.device).eval().requires_grad_(False)
    if options.quantize != "none":
        _quantize(model, options.quantize)
    return model


def _config(options: argparse.Namespace) -> Any:
    import transformers

    file = options.model / "config.json" if options.model.is_dir() else options.model
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        config = transformers.AutoConfig.for_model(**content)
    except Exception as error:  # besides OSError and ValueError, what transformers' own checks raise
        raise CommandError(
            f"{file} is no config of a Hugging Face model that transformers {transformers.__version__} knows: "
            f"{_in_a_line(error)}"
        ) from None
    if "quantization_config" in content and options.quantize == "none":
        print(
            f"explain: the quantization_config of {file} is for weights, which are random here, and is left out: name a "
            f"folder that has the weights, or choose with --quantize",
            file=sys.stderr,
        )
    text = config.get_text_config()
    if not hasattr(text, "vocab_size"):
        raise CommandError(
            f"{file} is of a {config.model_type}, which reads no tokens; helion_compile.explain(model, *inputs) takes any "
            f"module"
        )
    text.num_hidden_layers = options.layers or min(2, text.num_hidden_layers)
    text.vocab_size = min(text.vocab_size, _VOCABULARY)
    for each in (config, text):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "quantization_config"):
            if getattr(each, name, None) is not None:
                setattr(each, name, None)
    return config


def _quantize(model: torch.nn.Module, how: str) -> None:
    torchao = _torchao()

    def chosen(module: torch.nn.Module, name: str) -> bool:
        return isinstance(module, torch.nn.Linear) and name != "lm_head"

    with _on_any_device():
        torchao.quantize_(model, QUANTIZE[how](), filter_fn=chosen)


def _torchao() -> Any:
    try:
        import torchao.quantization
    except ImportError:
        raise CommandError("linears are quantised by torchao, which is not installed: pip install torchao") from None
    return torchao.quantization


@contextlib.contextmanager
def _on_any_device() -> Iterator[None]:
    """torchao asks for a GPU that is fast at fp8; what a graph looks like does not depend on that."""
    with mock.patch("torchao.quantization.quant_api._check_hardware_support", create=True):
        yield


def _explain(model: torch.nn.Module, options: argparse.Namespace) -> Report:
    ids = torch.randint(
        model.config.get_text_config().vocab_size, tuple(options.shape), generator=torch.Generator().manual_seed(0)
    ).to(options.device)
    with torch.no_grad():
        try:
            return explain(
                model,
                ids,
                dynamic=True if options.dynamic else None,
                options={"numerics": options.numerics},
                verify=options.verify,
            )
        except Exception as error:
            try:
                model(ids)
            except Exception as own:  # more tokens than it has positions, say
                raise CommandError(
                    f"the model of {options.model} cannot be run on token ids of shape {list(options.shape)}, compiled or "
                    f"not: {_in_a_line(own)}; choose another --shape"
                ) from error
            raise
