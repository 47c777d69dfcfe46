# SPDX-License-Identifier: Apache-2.0
"""``bench chains``: norm → quantise → GEMM, against Inductor's kernel followed by the library's GEMM or by CUTLASS.

Both kernels are replayed in one CUDA graph with weights that are not in the L2; ours with PDL, as in a model.
``inductor, then ours`` is Inductor's kernel in front of our GEMM: what leaving the quantiser to Inductor would cost.
Products alone are rows of ``bench kernels --kernels scaled_mm``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import click
import torch

from helion_compile import compat
from helion_compile.bench import course
from helion_compile.bench.rows import Baseline, distance, measure
from helion_compile.bench.subjects import SUBJECTS
from helion_compile.bench.timing import rotating
from helion_compile.bench.vllm_library import OPERATORS
from helion_compile.bench.work import Limits, work_of
from helion_compile.cli.options import command, count, several
from helion_compile.kernels import norm_quant, scaled_mm

__all__ = ["main", "row_of"]

# K and N of Qwen3-8B's linears: q, k and v together, gate and up together, down, out
SHAPES = ((4096, 6144), (4096, 24576), (12288, 4096), (4096, 4096))
WEIGHTS = 2  # arguments of a chain behind those of the norm: the GEMM's weight and its scales


def row_of(k: int, n: int, m: int, limits: Limits, *, vllm: bool = False, device: str = "cuda") -> dict[str, Any]:
    """The row of one GEMM's shape for M tokens."""
    norm, product = SUBJECTS["norm_quant"], SUBJECTS["scaled_mm"]
    of_norm = norm.case({"hidden_size": k, "residual": False}, m)
    of_product = product.case({"k": k, "n": n, "operands": "e4m3", "scales": "row", "fast_accum": True, "library": "torch"}, m)

    def make() -> tuple[Any, ...]:
        _, w, _, w_scale, *_ = product.arguments(of_product, torch.device(device))
        return *norm.arguments(of_norm, torch.device(device)), w, w_scale

    arguments = make()
    alone = product.arguments(of_product, torch.device(device))
    sets = rotating(make, k * n)
    picks = {kernel.short_name: kernel.pick(args) for kernel, args in ((norm_quant, arguments[:-WEIGHTS]), (scaled_mm, alone))}
    fields = {
        "kernel": "norm, quantiser, product",
        "m": m,
        "k": k,
        "n": n,
        "config": {name: dict(pick.config or {}) for name, pick in picks.items()},
        "config_from": {name: pick.origin for name, pick in picks.items()},
    }
    work = work_of(norm_quant, arguments[:-WEIGHTS]) + work_of(scaled_mm, alone)
    ours = _chain(norm_quant, scaled_mm)
    return measure(fields, ours, sets, _baselines(vllm), work, limits, chained=True)


def _baselines(vllm: bool) -> Iterator[Baseline]:
    compat.dynamo.reset()
    quantise = torch.compile(norm_quant.reference, dynamic=False)
    check = distance(0.02)  # a byte may move by a step
    yield Baseline("inductor, library", _chain(quantise, scaled_mm.fallbacks["library"]), check=check)
    if vllm:
        yield Baseline("inductor, cutlass", _chain(quantise, OPERATORS["scaled_mm"][0]), check=check)
    yield Baseline("inductor, then ours", _chain(quantise, scaled_mm), check=check)


def _chain(quantise: Callable[..., Any], product: Callable[..., Any]) -> Callable[..., torch.Tensor]:
    def run(*arguments: Any) -> torch.Tensor:
        *of_norm, w, w_scale = arguments
        q, scale = quantise(*of_norm)
        return product(q, w, scale.view(-1), w_scale, None, torch.bfloat16, True)

    return run


@contextlib.contextmanager
def _prefetching(size: int | None) -> Iterator[None]:
    """Inside, configs of ``scaled_mm`` ask for so many bytes of each row of weights before they wait."""
    if size is None:
        yield
        return
    real = scaled_mm.pick

    def pick(args: tuple[Any, ...]) -> Any:
        found = real(args)
        config = found.config or {}
        return found if "fallback" in config else found._replace(config={**config, "prefetch": size})

    vars(scaled_mm)["pick"] = pick
    scaled_mm.plans.clear()
    try:
        yield
    finally:
        del scaled_mm.pick
        scaled_mm.plans.clear()


def _shape(text: str) -> tuple[int, int]:
    k, comma, n = text.partition(",")
    if not comma:
        raise click.BadParameter(f"{text!r} is no K,N such as 4096,6144")
    return count(k), count(n)


@command("bench chains", __doc__, examples=["helion-compile bench chains --shapes 4096,6144 --m 1 16"])
@several("--shapes", type=_shape, default=[f"{k},{n}" for k, n in SHAPES], metavar="K,N", help="of the products' weights")
@several("--m", type=count, default=[1, 16, 64, 256, 1024, 4096], help="tokens")
@click.option("--prefetch", type=click.Choice([0, 512, 1024, 2048, 4096]), help="instead of what the configs say")
@course.options
def main(options: SimpleNamespace) -> int:
    rows = course.begin("chains", options, products=True)
    with _prefetching(options.prefetch):
        for k, n in options.shapes:
            for m in options.m:
                rows.add(row_of(k, n, m, rows.limits, vllm=options.vllm is not None))
    return course.end(rows, options)
