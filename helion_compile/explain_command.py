"""``python -m helion_compile explain``: the report of a Hugging Face causal language model, from its config alone."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from helion_compile.explain import explain
from helion_compile.fusions import NUMERICS

__all__ = ["main"]

# name -> the torchao config that `--quantize NAME` applies to the linears but lm_head
QUANTIZE: dict[str, Callable[[], Any]] = {
    "fp8-row": lambda: _torchao().Float8DynamicActivationFloat8WeightConfig(granularity=_torchao().PerRow()),
    "fp8-tensor": lambda: _torchao().Float8DynamicActivationFloat8WeightConfig(granularity=_torchao().PerTensor()),
    "int8": lambda: _torchao().Int8DynamicActivationInt8WeightConfig(),
}
_VOCABULARY = 1024  # of a model made from its config: embedding and lm_head are not what a report is about


class CommandError(ValueError):
    """The command was asked for something that it cannot do, in one sentence."""


def main(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    # torchao tells of optional CUDA libraries, which this has no use for.
    logging.getLogger("torchao").setLevel(logging.ERROR)
    try:
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
    parser = argparse.ArgumentParser(prog="helion_compile explain", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="CONFIG.json|FOLDER",
        help="a config.json: random weights, a small vocabulary; or a checkpoint folder: its weights and quantisation",
    )
    parser.add_argument("--quantize", choices=(*QUANTIZE, "none"), default="none", help="quantise the linears first")
    parser.add_argument("--layers", type=int, help="keep the first N layers (default: 2 of a config, all of a folder)")
    parser.add_argument("--shape", type=int, nargs=2, default=(2, 16), metavar=("B", "T"), help="of the token ids")
    parser.add_argument("--dynamic", action="store_true", help="with symbolic sizes, as for a server")
    parser.add_argument("--numerics", choices=NUMERICS, default="default")
    parser.add_argument("--verify", action="store_true", help="run each fused site against the original")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report as a page, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON, too")
    return parser


def _model(options: argparse.Namespace) -> torch.nn.Module:
    try:
        import transformers
    except ImportError:
        raise CommandError("a model is made by transformers, which is not installed: pip install transformers") from None
    if not options.model.exists():
        raise CommandError(f"there is no {options.model}; name a config.json, or the folder of a checkpoint")
    if options.model.is_dir() and any(options.model.glob("*.safetensors")):
        layers = {} if options.layers is None else {"num_hidden_layers": options.layers}
        model = transformers.AutoModelForCausalLM.from_pretrained(
            options.model, dtype=torch.bfloat16, local_files_only=True, **layers
        )
    else:
        model = transformers.AutoModelForCausalLM.from_config(_config(options), dtype=torch.bfloat16)
    model.config.use_cache = False  # a KV cache is state of Python that the chains do not depend on
    model = model.to(options.device).eval().requires_grad_(False)
    if options.quantize != "none":
        _quantize(model, options.quantize)
    return model


def _config(options: argparse.Namespace) -> Any:
    import transformers

    file = options.model / "config.json" if options.model.is_dir() else options.model
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        config = transformers.AutoConfig.for_model(**facts)
    except (OSError, TypeError, ValueError, KeyError) as error:
        raise CommandError(
            f"{file} is no config of a Hugging Face model that transformers {transformers.__version__} knows: {error}"
        ) from None
    config.num_hidden_layers = options.layers or min(2, config.num_hidden_layers)
    config.vocab_size = min(config.vocab_size, _VOCABULARY)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "quantization_config"):
        if getattr(config, name, None) is not None:
            setattr(config, name, None)
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


def _explain(model: torch.nn.Module, options: argparse.Namespace) -> Any:
    ids = torch.randint(model.config.vocab_size, tuple(options.shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return explain(
            model,
            ids.to(options.device),
            dynamic=True if options.dynamic else None,
            options={"numerics": options.numerics},
            verify=options.verify,
        )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
