# SPDX-License-Identifier: Apache-2.0
"""A Qwen3 quantised to fp8, compiled with backend="helion": what was fused, what it looks like, how exact, how fast.

    python examples/demo.py [--model FOLDER] [--layers N] [--batch B ...]

Without --model the weights are random, in the widths of Qwen3-0.6B (on a GPU Qwen3-8B). No download is made.
"""

import argparse
import copy
import logging
import sys
import time
import warnings

import torch
import transformers
from rich import box
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

# torchao reports optional CUDA libraries that this demo makes no use of, and registers types in a deprecated way.
logging.getLogger("torchao").setLevel(logging.ERROR)
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", "Float8Tensor does not implement _stable_hash_for_caching")

import fp8_models  # noqa: E402
from graph_text import NODE, one_layer, outline  # noqa: E402
from measure import agreement, median_cpu_ms, median_gpu_ms, relative_error  # noqa: E402

import helion_compile  # noqa: E402

WIDTHS = {
    # The vocabulary is cut: embedding and lm_head stay in bf16 and would be most of the memory.
    "cpu": {"hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16, "vocab_size": 8192},
    "cuda": {"hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32, "vocab_size": 8192},
}
# name -> arguments of torch.compile; None: not compiled. "cudagraphs" replays eager's kernels as one CUDA graph.
COMPARED = {"eager": None, "inductor": {"backend": "inductor"}, "helion": {"backend": "helion"}}
WITH_CUDA_GRAPHS = {
    "eager": {"backend": "cudagraphs"},
    "inductor": {"backend": "inductor", "mode": "reduce-overhead"},
    "helion": {"backend": "helion", "mode": "reduce-overhead"},
}


def main():
    arguments = parse_arguments()
    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    torch.set_float32_matmul_precision("high")

    model = build_model(arguments.model, arguments.layers, arguments.device)
    config = model.config
    console.print(
        f"{type(model).__name__}, {config.num_hidden_layers} layers, hidden size {config.hidden_size}, "
        f"{arguments.model or 'random weights'}, linears in fp8 per row, on {device_name(arguments.device)}, "
        f"torch {torch.__version__}"
    )
    ids = fp8_models.token_ids(model, *arguments.shape)

    console.rule("What was rewritten")
    report = helion_compile.explain(model, ids)
    console.print(str(report), markup=False, soft_wrap=True)
    if not report.sites:
        sys.exit("helion rewrote nothing in this model; the refusals above say why")

    console.rule("The FX graph of one layer, rewritten")
    code = max((graph.after for graph in report.graphs), key=lambda code: code.count(NODE))
    layer = outline(one_layer(code, config.num_hidden_layers), console.width)
    console.print(Syntax(layer, "python", background_color="default"))
    console.print("\nViews are left out. All of it: helion_compile.explain(...).graphs[0].after, and .before.")

    torch.compiler.reset()
    ways = {name: model if arguments is None else torch.compile(model, **arguments) for name, arguments in COMPARED.items()}
    console.rule("Numbers")
    console.print(numbers(model, ways, ids))

    console.rule("Times")
    console.print(times(model, arguments.batch) if arguments.device == "cuda" else cpu_times(ways, ids))


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", metavar="FOLDER", help="a local checkpoint folder instead of random weights")
    parser.add_argument("--layers", type=int, help="keep the first N layers (default: 2, or all of a checkpoint)")
    parser.add_argument("--shape", type=int, nargs=2, default=(2, 16), metavar=("B", "T"), help="compared input")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16], help="decode batches to time on a GPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    return parser.parse_args(argv)


def build_model(folder, layers, device):
    if folder:
        config = {} if layers is None else {"num_hidden_layers": layers}
        model = fp8_models.pretrained_model(folder, **config)
    else:
        config = transformers.Qwen3Config(
            **WIDTHS[device],
            num_hidden_layers=2 if layers is None else layers,
            num_key_value_heads=8,
            head_dim=128,
            tie_word_embeddings=False,
        )
        model = fp8_models.random_model(config)
    return fp8_models.quantize_fp8_per_row(model.to(device))


def device_name(device):
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


def compiled(model, arguments):
    """`model` compiled with these arguments of torch.compile, or as it is; nothing is left of earlier compilations."""
    torch.compiler.reset()
    return model if arguments is None else torch.compile(model, **arguments)


def numbers(model, ways, ids):
    """How far each way of running `model` is from the fp64 model of the same weights, and from eager; compiles them."""
    truth = fp8_models.dequantize_fp64(copy.deepcopy(model))(ids).logits
    table = Table("", "error against fp64", "against eager", "next token as fp64", "first call, s", box=box.SIMPLE)
    results = {}
    for name, way in ways.items():
        start = time.perf_counter()
        results[name] = way(ids).logits.clone()
        seconds = time.perf_counter() - start
        errors = [relative_error(results[name], reference) for reference in (truth, results["eager"])]
        table.add_row(name, *(f"{error:.5f}" for error in errors), f"{agreement(results[name], truth):.1%}", f"{seconds:.1f}")
    table.caption = (
        "Relative error of the logits, 2-norm. fp64 has the same weights and quantises no activation, so the first "
        "column is mostly the quantisation itself."
    )
    table.caption_justify = "left"
    return table


def times(model, batches):
    """Latency of decoding one token for each batch size, without a KV cache."""
    table = Table("ms a call", *(f"batch {batch}{how}" for batch in batches for how in ("", ", CUDA graph")), box=box.SIMPLE)
    for name in COMPARED:
        cells = []
        for batch in batches:
            # More inputs than a graph tree or an L2 would remember, and each embeds other rows.
            inputs = fp8_models.token_ids(model, batch, 1, count=8)
            for arguments in (COMPARED[name], WITH_CUDA_GRAPHS[name]):
                cells.append(f"{median_gpu_ms(compiled(model, arguments), inputs):.3f}")
        table.add_row(name, *cells)
    table.caption = "Median of 50 calls by CUDA events, inputs rotated, one new token and no KV cache."
    table.caption_justify = "left"
    return table


def cpu_times(ways, ids):
    """Latency of a call on a CPU, where Inductor makes code of the kernels' references."""
    table = Table("ms a call", f"{ids.numel()} tokens", box=box.SIMPLE)
    for name, milliseconds in median_cpu_ms(ways, ids).items():
        table.add_row(name, f"{milliseconds:.1f}")
    table.caption = "Median of 20 calls each, taken in turn. No GPU: Inductor makes code of the kernels' references."
    table.caption_justify = "left"
    return table


# Compilation may start worker processes that import this file again.
if __name__ == "__main__":
    main()
