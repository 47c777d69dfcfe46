"""``bench chains``: norm → quantise → product, and the product alone, against Inductor and ``torch._scaled_mm``.

Both chains are replayed as CUDA graphs with weights that are not in the L2; ours with dependent launch, as in a model.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
from collections.abc import Iterator
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from helion_compile.bench.kernels import NORM, TORCHAO, _norm_quantized, copy_bandwidth
from helion_compile.bench.timing import device_us, machine, require_gpu, rotating
from helion_compile.kernels import rms_norm_quant, scaled_mm

__all__ = ["main"]

# K and N of Qwen3-8B's linears: q, k and v together, gate and up together, down, out
SHAPES = ((4096, 6144), (4096, 24576), (12288, 4096), (4096, 4096))
BF16 = torch.bfloat16


def _our_chain(x, weight, w, w_scale, *_):
    q, scale = rms_norm_quant(x, weight, None, None, None, None, 1e-6, NORM, TORCHAO, False, False)
    return scaled_mm(q, w, scale.view(-1), w_scale, None, BF16, True)


def _their_chain(x, weight, w, w_scale, *_):
    q, scale = _norm_quantized(x, weight)
    return torch._scaled_mm(q, w.t(), scale, w_scale[None, :], out_dtype=BF16, use_fast_accum=True)


def _our_product(x, weight, w, w_scale, q, scale):
    return scaled_mm(q, w, scale, w_scale, None, BF16, True)


def _their_product(x, weight, w, w_scale, q, scale):
    return torch._scaled_mm(q, w.t(), scale[:, None], w_scale[None, :], out_dtype=BF16, use_fast_accum=True)


def _inputs(m: int, k: int, n: int) -> tuple[torch.Tensor, ...]:
    x, weight = (torch.randn(size, device="cuda", dtype=BF16) for size in ((m, k), (k,)))
    w, q = (torch.randn(rows, k, device="cuda").to(torch.float8_e4m3fn) for rows in (n, m))
    w_scale, scale = (torch.rand(size, device="cuda") + 0.5 for size in (n, m))
    return x, weight, w, w_scale, q, scale


def measure(what: str, m: int, k: int, n: int, bandwidth: float) -> dict[str, Any]:
    """One row: times in µs, how far the results are apart, and for the product how far each is from that in fp64.

    Raises:
        AssertionError: ours is farther from the other than rounding explains.
    """
    sets = rotating(lambda: _inputs(m, k, n), k * n)
    chain = what == "chain"
    torch._dynamo.reset()
    ours = _our_chain if chain else _our_product
    theirs = torch.compile(_their_chain, dynamic=False) if chain else _their_product
    got, want = ours(*sets[0]), theirs(*sets[0])
    # A product of sums that the tensor cores keep to 13 bits or so, rounded to bf16; in the chain a byte may move by a step.
    apart, limit = _distance(got, want), 0.02 if chain else 0.01
    if not apart <= limit:
        raise AssertionError(f"{what} at M={m}, K={k}, N={n} is {apart:.1e} from the library's result, more than {limit}")
    row = {"what": what, "m": m, "k": k, "n": n, "apart": apart}
    if not chain:
        _, _, w, w_scale, q, scale = sets[0]
        exact = (q.double() @ w.double().t()) * w_scale.double() * scale.double()[:, None]
        row |= {"error": _distance(got, exact), "their_error": _distance(want, exact)}
    row["us"] = device_us(ours, sets, chained=chain)
    row["theirs_us"] = device_us(theirs, sets, chained=chain)
    row["speedup"] = row["theirs_us"] / row["us"]
    row["reading_share"] = k * n / bandwidth / (row["us"] * 1e-6)
    row["config"] = dict(scaled_mm.pick((sets[0][4], sets[0][2], sets[0][5], sets[0][3], None, BF16, True)).config or {})
    return row


def _distance(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


@contextlib.contextmanager
def _prefetching(size: int | None) -> Iterator[None]:
    """Inside, configs of ``scaled_mm`` ask for so many bytes of each row of weights before they wait."""
    if size is None:
        yield
        return
    real = scaled_mm.pick

    def pick(args: tuple[Any, ...]) -> Any:
        found = real(args)
        if "alternative" in (found.config or {}):
            return found
        return found._replace(config={**found.config, "prefetch": size})

    scaled_mm.pick = pick  # type: ignore[method-assign]
    scaled_mm.plans.clear()
    try:
        yield
    finally:
        del scaled_mm.pick
        scaled_mm.plans.clear()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="helion_compile bench chains", description=__doc__)
    parser.add_argument("--what", nargs="+", choices=["chain", "product"], default=["chain", "product"])
    parser.add_argument("--shapes", nargs="+", metavar="K,N", default=[f"{k},{n}" for k, n in SHAPES])
    parser.add_argument("--m", type=int, nargs="+", default=[1, 16, 64, 256, 1024, 4096])
    parser.add_argument("--prefetch", type=int, choices=[0, 512, 1024, 2048, 4096], help="instead of what the configs say")
    parser.add_argument("--json", help="write the rows to this file")
    options = parser.parse_args(argv)
    require_gpu("chains")
    shapes = [tuple(map(int, shape.split(","))) for shape in options.shapes]
    bandwidth = copy_bandwidth()
    console = Console(soft_wrap=True)
    console.print(f"{machine()}, copy {bandwidth / 1e12:.2f} TB/s")
    with _prefetching(options.prefetch):
        rows = [measure(what, m, k, n, bandwidth) for what in options.what for k, n in shapes for m in options.m]
    table = Table("what", "K", "N", "M", "ours µs", "theirs µs", "speed-up", "of reading the weights", "apart", "config")
    for row in rows:
        numbers = (f"{row['us']:.2f}", f"{row['theirs_us']:.2f}", f"{row['speedup']:.2f}", f"{row['reading_share']:.0%}")
        sizes = (str(row[name]) for name in ("k", "n", "m"))
        table.add_row(row["what"], *sizes, *numbers, f"{row['apart']:.1e}", json.dumps(row["config"]))
    console.print(table)
    for what in options.what:
        for few in (True, False):
            speedups = [row["speedup"] for row in rows if row["what"] == what and (row["m"] <= 64) == few]
            if speedups:
                mean = math.exp(sum(map(math.log, speedups)) / len(speedups))
                losses = sum(speedup < 1 for speedup in speedups)
                console.print(
                    f"{what}, {'up to' if few else 'more than'} 64 tokens: geomean {mean:.2f}x, worst {min(speedups):.2f}x, "
                    f"{losses} losses of {len(speedups)}"
                )
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": machine(), "copy_bandwidth": bandwidth, "rows": rows}, file, indent=2)
    return 0
