"""``bench kernels``: each kernel against what Inductor makes of the same function, with a check of the results."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from helion_compile.bench.timing import device_us, machine, require_gpu, rotating
from helion_compile.kernels import activation_quant, quant, rms_norm_quant
from helion_compile.kernels.normalization import normalization
from helion_compile.kernels.quantization import quantization

__all__ = ["main"]

EPS = 1e-6
NORM = normalization(cast_then_scale=True)  # Llama's
TORCHAO = quantization(torch.float8_e4m3fn, clamp=(-448.0, 448.0), scale_dtype=torch.bfloat16)


def _quantized(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = (x.abs().amax(-1, keepdim=True) / 448.0).float()
    return (x.float() / scale).clamp(-448.0, 448.0).to(torch.float8_e4m3fn), scale


def _norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    x32 = x.float()
    return weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + EPS)).to(x.dtype)


def _norm_quantized(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return _quantized(_norm(x, weight))


def _add_norm_quantized(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, ...]:
    total = x + residual
    return *_quantized(_norm(total, weight)), total


def _norm_quant(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor | None, exact: bool) -> Any:
    return rms_norm_quant(x, weight, None, residual, None, None, EPS, NORM, TORCHAO, exact, False)


def _silu_mul_quantized(x: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return _quantized(torch.nn.functional.silu(x) * up)


def _activation_quant(x: torch.Tensor, up: torch.Tensor, exact: bool) -> Any:
    return activation_quant(x, up, None, None, "silu", "function", TORCHAO, exact, False)


# name -> (spelled in torch, our kernel with the same arguments, tensors [M, K] that are read or written in bf16 / in fp8)
CASES: dict[str, tuple[Callable, Callable, int]] = {
    "rms_norm_quant": (_norm_quantized, lambda x, w: _norm_quant(x, w, None, False), 1),
    "rms_norm_quant exact": (
        _norm_quantized,
        lambda x, w: _norm_quant(x, w, None, True),
        1,
    ),
    "add_rms_norm_quant": (
        _add_norm_quantized,
        lambda x, w, r: _norm_quant(x, w, r, False),
        3,
    ),
    "quant": (_quantized, lambda x: quant(x, None, None, TORCHAO, False), 1),
    "activation_quant": (_silu_mul_quantized, lambda x, up: _activation_quant(x, up, False), 2),
    "activation_quant exact": (_silu_mul_quantized, lambda x, up: _activation_quant(x, up, True), 2),
}


def _inputs(name: str, m: int, k: int) -> tuple[torch.Tensor, ...]:
    x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
    if name.startswith("activation_quant"):
        return x, torch.randn_like(x)
    weight = torch.randn(k, device="cuda", dtype=torch.bfloat16)
    return {"quant": (x,), "add_rms_norm_quant": (x, weight, torch.randn_like(x))}.get(name, (x, weight))


def measure(name: str, m: int, k: int, copy_bandwidth: float) -> dict[str, Any]:
    """One row: times in µs, share of the copy bandwidth, and how many fp8 bytes differ from Inductor's, by how much."""
    spelled, ours, wide = CASES[name]
    sets = rotating(lambda: _inputs(name, m, k), m * k * 2 * max(wide - 1, 1))
    torch._dynamo.reset()
    inductor = torch.compile(spelled, dynamic=False)
    steps = (_order(ours(*sets[0])[0]) - _order(inductor(*sets[0])[0])).abs()
    moved = m * k * (2 * wide + 1)
    row = {
        "kernel": name,
        "m": m,
        "k": k,
        "us": device_us(ours, sets),
        "inductor_us": device_us(inductor, sets),
        "bytes_that_differ": (steps > 0).float().mean().item(),
        "largest_step": steps.max().item(),
    }
    row["speedup"] = row["inductor_us"] / row["us"]
    row["bandwidth_share"] = moved / (row["us"] * 1e-6) / copy_bandwidth
    if row["largest_step"] > 1:
        raise AssertionError(f"{name} at M={m}, K={k} is {row['largest_step']} fp8 steps from Inductor's result")
    return row


def _order(q: torch.Tensor) -> torch.Tensor:
    bits = q.view(torch.uint8).int()
    return torch.where(bits >= 128, 128 - bits, bits)


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a large copy by a kernel."""
    x = torch.randn(2**28, device="cuda")
    y = torch.empty_like(x)
    return 2 * x.nbytes / (device_us(lambda: torch.add(x, 1.0, out=y), [()], repeats=5) * 1e-6)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="helion_compile bench kernels", description=__doc__)
    parser.add_argument("--kernels", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--k", type=int, nargs="+", default=[4096])
    parser.add_argument("--m", type=int, nargs="+", default=[1, 16, 256, 2048, 8192])
    parser.add_argument("--json", help="write the rows to this file")
    options = parser.parse_args(argv)
    require_gpu("kernels")
    bandwidth = copy_bandwidth()
    console = Console(soft_wrap=True)
    console.print(f"{machine()}, copy {bandwidth / 1e12:.2f} TB/s")
    rows = [measure(n, m, k, bandwidth) for n in options.kernels for k in options.k for m in options.m]
    table = Table("kernel", "K", "M", "ours µs", "Inductor µs", "speed-up", "of copy bandwidth", "bytes that differ")
    for row in rows:
        table.add_row(
            row["kernel"],
            str(row["k"]),
            str(row["m"]),
            f"{row['us']:.2f}",
            f"{row['inductor_us']:.2f}",
            f"{row['speedup']:.2f}",
            f"{row['bandwidth_share']:.0%}",
            f"{row['bytes_that_differ']:.2%}",
        )
    console.print(table)
    for name in options.kernels:
        speedups = [row["speedup"] for row in rows if row["kernel"] == name]
        mean = math.exp(sum(map(math.log, speedups)) / len(speedups))
        losses = sum(speedup < 1 for speedup in speedups)
        console.print(f"{name}: geomean {mean:.2f}x, worst {min(speedups):.2f}x, {losses} losses of {len(speedups)}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": machine(), "copy_bandwidth": bandwidth, "rows": rows}, file, indent=1)
    return 0
