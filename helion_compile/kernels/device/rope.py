# SPDX-License-Identifier: Apache-2.0
"""What kernels that rotate heads share: the rotation itself, its reference, what they refuse, and their cases.

Letters: ``B`` sequences, ``S`` tokens of each, ``H`` heads, ``D`` elements of a head, ``R`` of them rotated.
"""

from __future__ import annotations

import helion.language as hl
import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from helion_compile.configs.case import Case
from helion_compile.kernels.device.rounding import round_to
from helion_compile.kernels.device.rows import FLOATS, find_dtype

__all__ = ["make_case", "default_config", "lay_out", "make_inputs", "check_heads", "shapes", "rotate_pair", "rotate_reference"]

TABLES = ("cos1", "sin1", "cos2", "sin2")
PAIRS = ("neox", "interleaved")
_MULTIPLY = "mul.rn.f32 $0, $1, $2;"
MAX_TOKEN = 65536  # elements of all heads of a token: they are held in registers


def rotate_pair(
    x1: torch.Tensor,
    x2: torch.Tensor,
    cos1: torch.Tensor,
    sin1: torch.Tensor,
    cos2: torch.Tensor,
    sin2: torch.Tensor,
    dtype: torch.dtype,
    stepwise: bool,
    exact: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """In a kernel: (x1 cos1 - x2 sin1, x2 cos2 + x1 sin2), all fp32; tables broadcast over the heads."""
    first = _multiply_step(x1, cos1, dtype, stepwise, exact) - _multiply_step(x2, sin1, dtype, stepwise, exact)
    second = _multiply_step(x2, cos2, dtype, stepwise, exact) + _multiply_step(x1, sin2, dtype, stepwise, exact)
    return first, second


def _multiply_step(left: torch.Tensor, right: torch.Tensor, dtype: torch.dtype, stepwise: bool, exact: bool) -> torch.Tensor:
    if not exact:
        return left * right
    if stepwise:
        return round_to(left * right, dtype)
    return multiply(left, right)


def multiply(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """``left * right`` as an instruction of its own: a * b + c would become one multiply-add, which rounds once, not twice."""
    return hl.inline_asm_elementwise(_MULTIPLY, "=f,f,f", [left, right], dtype=torch.float32, is_pure=True, pack=1)


def rotate_reference(x, tables, pairs, stepwise, exact):
    """``x`` [B, S, H, D], its first elements rotated, in plain torch: fp32, or ``x``'s dtype if stepwise and exact."""
    wide = x if exact and stepwise else x.float()
    cos1, sin1, cos2, sin2 = (getattr(tables, name).unsqueeze(2).to(wide.dtype) for name in TABLES)
    rotary_dim = 2 * cos1.size(-1)
    head, rest = wide[..., :rotary_dim], wide[..., rotary_dim:]
    x1, x2 = (head[..., 0::2], head[..., 1::2]) if pairs == "interleaved" else head.chunk(2, -1)
    both = x1 * cos1 - x2 * sin1, x2 * cos2 + x1 * sin2
    head = torch.stack(both, -1).flatten(-2) if pairs == "interleaved" else torch.cat(both, -1)
    return torch.cat((head, rest), -1)


def lay_out(out, heads_first):
    """``out`` [B, S, H, D], contiguous as such or as [B, H, S, D]."""
    return (out.transpose(1, 2) if heads_first else out).contiguous()


def check_heads(args):
    """Why x and its tables, among the arguments of a kernel, are none that it takes."""
    x, tables, pairs = args.x, {name: getattr(args, name) for name in TABLES}, args.pairs
    if pairs not in PAIRS:
        return f"pairs is {pairs!r}; it is one of {PAIRS}"
    if x.dim() != 4:
        return f"x has {x.dim()} dimensions; it takes [B, S, H, D]"
    if x.stride(-1) != 1:
        return f"the last dimension of x is not contiguous (strides {tuple(x.stride())}); call .contiguous() on it before"
    for name, tensor in (("x", x), *tables.items()):
        if tensor.dtype not in FLOATS:
            return f"{name} is {tensor.dtype}; it takes {', '.join(map(str, FLOATS))}"
    cos1 = tables["cos1"]
    if any(isinstance(size, torch.SymInt) for size in (x.size(2), x.size(3), cos1.size(-1))):
        return "the number of heads or the size of a head is symbolic; mark it static"
    rotary_dim = 2 * cos1.size(-1)
    if not 0 < rotary_dim <= x.size(3):
        found = f"tables of {cos1.size(-1)} numbers rotate {rotary_dim} elements, and a head has {x.size(3)}"
        return f"{found}; it takes tables for a head or less"
    for name, table in tables.items():
        if table.dim() != 3 or table.dtype != cos1.dtype or table.size(-1) != cos1.size(-1):
            found = f"{name} is {table.dtype} {tuple(table.shape)}, cos1 {cos1.dtype} {tuple(cos1.shape)}"
            return f"{found}; they are alike, [B, S, R / 2]"
    if x.size(2) * x.size(3) > MAX_TOKEN:
        return f"a token has {x.size(2) * x.size(3)} elements in its heads; it takes at most {MAX_TOKEN}"
    reach = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True)) + 1
    if statically_known_true(reach >= 2**31) and statically_known_true(x.numel() < 2**31):
        return (
            f"x reaches {reach} elements into memory with {x.numel()} of its own (strides {tuple(x.stride())}), and Helion "
            f"chooses 32-bit offsets by the latter; call .contiguous() on it before"
        )
    return None


def make_case(x, cos1, pairs):
    """The case under which configs for these arguments are stored."""
    tokens = x.size(0) * x.size(1)
    return Case(
        head_dim=x.size(3), num_heads=x.size(2), num_tokens=tokens, dtype=x.dtype, rotary_dim=2 * cos1.size(-1), pairs=pairs
    )


def default_config(case):
    """One token a program, all its heads in registers, and as many warps as give each thread about 16 elements."""
    elements = int(case.fields.get("head_dim", 128)) * int(case.fields.get("num_heads", 32))
    warps = 1
    while warps < 16 and warps * 32 * 16 < elements:
        warps *= 2
    return {"block_sizes": [1, 1], "num_warps": warps}


def make_inputs(case, device):
    """x and its tables, by name, of a case, fresh and random."""
    dtype, tokens = find_dtype(case), case["num_tokens"]
    angles = torch.randn(1, tokens, case["rotary_dim"] // 2, device=device)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    x = torch.randn(1, tokens, case["num_heads"], case["head_dim"], device=device).to(dtype)
    # Four tables, as the halves of a table have four addresses.
    return {"x": x, "cos1": cos, "sin1": sin, "cos2": cos.clone(), "sin2": sin.clone()}


def shapes(layer):
    """The queries' heads and the keys'."""
    if layer.head_dim is None or layer.key_value_heads is None:
        return []
    base = {"head_dim": layer.head_dim, "rotary_dim": layer.head_dim, "pairs": "neox"}
    return [{**base, "num_heads": count} for count in (layer.attention_size // layer.head_dim, layer.key_value_heads)]
