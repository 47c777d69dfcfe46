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


def _norm_token(x, weight, bias, residual, scale, scale_ub, eps, *_):
    q, scales = _results(x)
    torch.ops._C.rms_norm_dynamic_per_token_quant(q, x, weight, scales, eps, scale_ub, residual)
    return q, scales


def _norm_group(x, weight, bias, residual, scale, scale_ub, eps, *_):
    q, scales = _results(x, x.size(1) // 128)
    torch.ops._C.rms_norm_per_block_quant(q, x, weight, scales, eps, scale_ub, residual, 128, False)
    return q, scales


def _norm_static(x, weight, bias, residual, scale, scale_ub, eps, *_):
    q, _ = _results(x)
    if residual is None:
        torch.ops._C.rms_norm_static_fp8_quant(q, x, weight, scale, eps)
    else:
        torch.ops._C.fused_add_rms_norm_static_fp8_quant(q, x, residual, weight, scale, eps)
    return q


def _quant_token(x, *_):
    q, scales = _results(x)
    torch.ops._C.dynamic_per_token_scaled_fp8_quant(q, x, scales, None)
    return q, scales


def _quant_group(x, *_):
    q, scales = _results(x, x.size(1) // 128)
    torch.ops._C.per_token_group_fp8_quant(x, q, scales, 128, 1e-10, -448.0, 448.0, False, False, False)
    return q, scales


def _quant_static(x, scale, *_):
    q, _ = _results(x)
    torch.ops._C.static_scaled_fp8_quant(q, x, scale)
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


def _cutlass(a, w, a_scale, w_scale, bias, dtype, fast_accum, *_):
    return scaled_mm.fallbacks["library"](a, w, a_scale, w_scale, bias, dtype, fast_accum, "cutlass")


def _as_they_are(*args: Any) -> tuple[Any, ...]:
    return args


def _with_own_residual(x, weight, bias, residual, *rest):
    return x, weight, bias, None if residual is None else residual.clone(), *rest


def _gate_and_up(x, up, scale, *_):
    both = torch.cat((x, up), 1)
    return (both,) if scale is None else (both, scale)


def _flat_heads(x, cos1, sin1):
    tokens = x.size(1)
    cache = torch.cat((cos1[0], sin1[0]), -1).to(x.dtype)
    return torch.arange(tokens, device=x.device), x.reshape(tokens, -1).clone(), cache, x.size(-1)


def _for_rotary(x, cos1, sin1, cos2, sin2, pairs, *_):
    return *_flat_heads(x, cos1, sin1), pairs == "halves"


def _for_norm_rotary(x, weight, cos1, sin1, cos2, sin2, eps, *_):
    return *_flat_heads(x, cos1, sin1), weight, eps


# a subject of bench kernels -> the operator's call, and what makes its arguments of the kernel's
OPERATORS: dict[str, tuple[Callable[..., Any], Callable[..., tuple[Any, ...]]]] = {
    "norm_quant": (_norm_token, _with_own_residual),
    "add_norm_quant": (_norm_token, _with_own_residual),
    "norm_quant group": (_norm_group, _with_own_residual),
    "add_norm_quant group": (_norm_group, _with_own_residual),
    "norm_quant static": (_norm_static, _with_own_residual),
    "add_norm_quant static": (_norm_static, _with_own_residual),
    "quant": (_quant_token, _as_they_are),
    "quant group": (_quant_group, _as_they_are),
    "quant static": (_quant_static, _as_they_are),
    "activation_quant group": (_silu_group, _gate_and_up),
    "activation_quant static": (_silu_static, _gate_and_up),
    "rope": (_rotary, _for_rotary),
    "rope of neighbours": (_rotary, _for_rotary),
    "norm_rope": (_norm_rotary, _for_norm_rotary),
    "scaled_mm": (_cutlass, _as_they_are),
}
