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
from helion_compile.kernels import activation_quant, norm_rope, quant, rms_norm_quant, rope
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


def _rotated_halves(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    x1, x2 = x.chunk(2, -1)
    return x * cos.unsqueeze(2) + torch.cat((-x2, x1), -1) * sin.unsqueeze(2)


def _rotated_pairs(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    x1, x2, cos, sin = x[..., ::2], x[..., 1::2], cos.unsqueeze(2)[..., ::2], sin.unsqueeze(2)[..., ::2]
    return torch.stack((x1 * cos - x2 * sin, x1 * sin + x2 * cos), -1).flatten(-2)


def _written_pairs(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    x1, x2, cos, sin = x[..., ::2], x[..., 1::2], cos.unsqueeze(2)[..., ::2], sin.unsqueeze(2)[..., ::2]
    out = torch.empty_like(x)
    out[..., ::2] = x1 * cos - x2 * sin
    out[..., 1::2] = x1 * sin + x2 * cos
    return out


def _norm_rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return _rotated_halves(_norm(x, weight), cos, sin)


def _tables(cos: torch.Tensor, sin: torch.Tensor, pairs: str) -> tuple[torch.Tensor, ...]:
    if pairs == "neighbours":
        return cos[..., ::2], sin[..., ::2], cos[..., 1::2], sin[..., 1::2]
    return cos[..., :64], sin[..., :64], cos[..., 64:], sin[..., 64:]


def _rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, pairs: str, exact: bool) -> torch.Tensor:
    return rope(x, *_tables(cos, sin, pairs), pairs, True, False, exact)


def _norm_rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, weight: torch.Tensor, exact: bool) -> torch.Tensor:
    tables = _tables(cos, sin, "halves")
    return norm_rope(x, weight, *tables, EPS, 0.0, True, False, "halves", True, False, exact)


# name -> (spelled in torch, our kernel with the same arguments, bytes that are read or written for each element of [M, K])
CASES: dict[str, tuple[Callable, Callable, int]] = {
    "rms_norm_quant": (_norm_quantized, lambda x, w: _norm_quant(x, w, None, False), 3),
    "rms_norm_quant exact": (_norm_quantized, lambda x, w: _norm_quant(x, w, None, True), 3),
    "add_rms_norm_quant": (_add_norm_quantized, lambda x, w, r: _norm_quant(x, w, r, False), 7),
    "quant": (_quantized, lambda x: quant(x, None, None, TORCHAO, False), 3),
    "activation_quant": (_silu_mul_quantized, lambda x, up: _activation_quant(x, up, False), 5),
    "activation_quant exact": (_silu_mul_quantized, lambda x, up: _activation_quant(x, up, True), 5),
    "rope": (_rotated_halves, lambda *args: _rope(*args, "halves", False), 4),
    "rope exact": (_rotated_halves, lambda *args: _rope(*args, "halves", True), 4),
    "rope of neighbours": (_rotated_pairs, lambda *args: _rope(*args, "neighbours", False), 4),
    "rope of neighbours, written": (_written_pairs, lambda *args: _rope(*args, "neighbours", False), 4),
    "norm_rope": (_norm_rotated, lambda *args: _norm_rope(*args, False), 4),
    "norm_rope exact": (_norm_rotated, lambda *args: _norm_rope(*args, True), 4),
}


def _inputs(name: str, m: int, k: int) -> tuple[torch.Tensor, ...]:
    """[M, K] and what belongs to it; of a rotary embedding x is [1, M, K / 128, 128], and cos and sin are [1, M, 128]."""
    x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
    if "rope" in name:
        half = torch.randn(1, m, 64, device="cuda")
        angles = (half.repeat_interleave(2, -1) if "neighbours" in name else torch.cat((half, half), -1)).bfloat16()
        weight = (torch.randn(128, device="cuda", dtype=torch.bfloat16),) if name.startswith("norm") else ()
        return x.view(1, m, k // 128, 128), angles.cos(), angles.sin(), *weight
    if name.startswith("activation_quant"):
        return x, torch.randn_like(x)
    weight = torch.randn(k, device="cuda", dtype=torch.bfloat16)
    return {"quant": (x,), "add_rms_norm_quant": (x, weight, torch.randn_like(x))}.get(name, (x, weight))


def measure(name: str, m: int, k: int, copy_bandwidth: float) -> dict[str, Any]:
    """One row: times in µs, share of the copy bandwidth, how many results differ from Inductor's or eager's, by how much."""
    spelled, ours, bytes_each = CASES[name]
    sets = rotating(lambda: _inputs(name, m, k), m * k * 2 * (2 if bytes_each > 4 else 1))
    torch._dynamo.reset()
    inductor = torch.compile(spelled, dynamic=False)
    # A rotary embedding that keeps the model's roundings is far from Inductor's where two products nearly cancel.
    expected = spelled if name.endswith("rope exact") else inductor
    steps = _steps(ours(*sets[0]), expected(*sets[0]))
    moved = m * k * bytes_each
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
        raise AssertionError(f"{name} at M={m}, K={k} is {row['largest_step']} steps from Inductor's result")
    return row


def _steps(ours: Any, theirs: Any) -> torch.Tensor:
    """How many representable values the first results are apart; of bf16 near 0, where a difference of two products is left,
    in steps of values of 2^-7.
    """
    ours, theirs = (result[0] if isinstance(result, tuple) else result for result in (ours, theirs))
    if ours.dtype == torch.float8_e4m3fn:
        return (_order(ours) - _order(theirs)).abs()
    size = torch.maximum(ours.float().abs(), theirs.float().abs()).clamp_min(2.0**-7)
    return (ours.float() - theirs.float()).abs() / torch.exp2(size.log2().floor() - 7)


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
