# SPDX-License-Identifier: Apache-2.0
"""vLLM's CUDA operators as baselines: its operator library alone is loaded, without the rest of vLLM.

Each function takes what our kernel takes and calls vLLM 0.26.0's operator for it, which writes to tensors that it is given.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from helion_compile.kernels import scaled_mm
from helion_compile.kernels.arguments import takes
from helion_compile.kernels.families.activation_quant import ActivationQuantArgs
from helion_compile.kernels.families.norm_quant import NormQuantArgs
from helion_compile.kernels.families.norm_rope import NormRopeArgs
from helion_compile.kernels.families.quant import QuantArgs
from helion_compile.kernels.families.rope import RopeArgs
from helion_compile.kernels.families.scaled_mm import ScaledMmArgs

__all__ = ["OPERATORS", "MissingLibrary", "load"]

E4M3 = torch.float8_e4m3fn
_NAME = "_C_stable_libtorch*.so"


class MissingLibrary(RuntimeError):
    """vLLM's operators were asked for and are not there, in one sentence."""


def load(file: str | None = None) -> str:
    """Load vLLM's operators into ``torch.ops._C``; the file that they came from.

    Args:
        file: of the library; None for that of the ``vllm`` folder that Python finds.

    Raises:
        MissingLibrary: no such file, or it is for another torch.
    """
    if file is None:
        spec = importlib.util.find_spec("vllm")
        places = list(spec.submodule_search_locations or ()) if spec else []
        found = [str(path) for place in places for path in sorted(Path(place).glob(_NAME))]
        if not found:
            raise MissingLibrary(
                f"--vllm was given, and no folder named vllm with {_NAME} is on Python's path; install vLLM or name the file"
            )
        file = found[0]
    try:
        torch.ops.load_library(file)
    except OSError as error:
        raise MissingLibrary(f"--vllm: {file} cannot be loaded into torch {torch.__version__}: {error}") from None
    return file


def _results(x: torch.Tensor, groups: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    scales = torch.empty((x.size(0), groups), dtype=torch.float32, device=x.device)
    return torch.empty(x.shape, dtype=E4M3, device=x.device), scales


@takes(NormQuantArgs)
def _norm_token(args):
    q, scales = _results(args.x)
    torch.ops._C.rms_norm_dynamic_per_token_quant(q, args.x, args.weight, scales, args.eps, args.scale_ub, args.residual)
    return q, scales


@takes(NormQuantArgs)
def _norm_group(args):
    q, scales = _results(args.x, args.x.size(1) // 128)
    torch.ops._C.rms_norm_per_block_quant(q, args.x, args.weight, scales, args.eps, args.scale_ub, args.residual, 128, False)
    return q, scales


@takes(NormQuantArgs)
def _norm_static(args):
    q, _ = _results(args.x)
    if args.residual is None:
        torch.ops._C.rms_norm_static_fp8_quant(q, args.x, args.weight, args.scale, args.eps)
    else:
        torch.ops._C.fused_add_rms_norm_static_fp8_quant(q, args.x, args.residual, args.weight, args.scale, args.eps)
    return q


@takes(QuantArgs)
def _quant_token(args):
    q, scales = _results(args.x)
    torch.ops._C.dynamic_per_token_scaled_fp8_quant(q, args.x, scales, None)
    return q, scales


@takes(QuantArgs)
def _quant_group(args):
    q, scales = _results(args.x, args.x.size(1) // 128)
    torch.ops._C.per_token_group_fp8_quant(args.x, q, scales, 128, 1e-10, -448.0, 448.0, False, False, False)
    return q, scales


@takes(QuantArgs)
def _quant_static(args):
    q, _ = _results(args.x)
    torch.ops._C.static_scaled_fp8_quant(q, args.x, args.scale)
    return q


def _silu_group(both, *_):
    q, scales = _results(both[:, : both.size(1) // 2], both.size(1) // 256)
    torch.ops._C.silu_and_mul_per_block_quant(q, both, scales, 128)
    return q, scales


def _silu_static(both, scale):
    q, _ = _results(both[:, : both.size(1) // 2])
    torch.ops._C.silu_and_mul_quant(q, both, scale)
    return q


def _rotary(positions, query, cache, head_dim, by_halves):
    torch.ops._C.rotary_embedding(positions, query, None, head_dim, cache, by_halves)
    return query.view(1, query.size(0), -1, head_dim)


def _norm_rotary(positions, query, cache, head_dim, weight, eps):
    heads = query.size(1) // head_dim
    torch.ops._C.fused_qk_norm_rope(query, heads, 0, 0, head_dim, eps, weight, weight, cache, True, positions)
    return query.view(1, query.size(0), heads, head_dim)


@takes(ScaledMmArgs)
def _cutlass(args):
    return scaled_mm.fallbacks["library"](*args._replace(library="cutlass"))


def _keep_arguments(*args: Any) -> tuple[Any, ...]:
    return args


@takes(NormQuantArgs)
def _copy_residual(args):
    return args if args.residual is None else args._replace(residual=args.residual.clone())


@takes(ActivationQuantArgs)
def _join_gate_and_up(args):
    both = torch.cat((args.x, args.up), 1)
    return (both,) if args.scale is None else (both, args.scale)


def _flatten_heads(args):
    x, tokens = args.x, args.x.size(1)
    cache = torch.cat((args.cos1[0], args.sin1[0]), -1).to(x.dtype)
    return torch.arange(tokens, device=x.device), x.reshape(tokens, -1).clone(), cache, x.size(-1)


@takes(RopeArgs)
def _make_rotary_arguments(args):
    return *_flatten_heads(args), args.pairs == "neox"


@takes(NormRopeArgs)
def _make_norm_rotary_arguments(args):
    return *_flatten_heads(args), args.weight, args.eps


# a subject of bench kernels -> the operator's call, and what makes its arguments of the kernel's
OPERATORS: dict[str, tuple[Callable[..., Any], Callable[..., tuple[Any, ...]]]] = {
    "norm_quant": (_norm_token, _copy_residual),
    "add_norm_quant": (_norm_token, _copy_residual),
    "norm_quant group": (_norm_group, _copy_residual),
    "add_norm_quant group": (_norm_group, _copy_residual),
    "norm_quant static": (_norm_static, _copy_residual),
    "add_norm_quant static": (_norm_static, _copy_residual),
    "quant": (_quant_token, _keep_arguments),
    "quant group": (_quant_group, _keep_arguments),
    "quant static": (_quant_static, _keep_arguments),
    "activation_quant group": (_silu_group, _join_gate_and_up),
    "activation_quant static": (_silu_static, _join_gate_and_up),
    "rope": (_rotary, _make_rotary_arguments),
    "rope interleaved": (_rotary, _make_rotary_arguments),
    "norm_rope": (_norm_rotary, _make_norm_rotary_arguments),
    "scaled_mm": (_cutlass, _keep_arguments),
}
