# SPDX-License-Identifier: Apache-2.0
"""What ``bench kernels`` measures: each kernel of the catalogue, in the kinds in which models call it.

Arguments are those that the tuner makes for a case, so that rows and config tables speak of the same calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from helion_compile.configs.case import Case
from helion_compile.helion_kernel import HelionKernel
from helion_compile.kernels import (
    activation_quant,
    block_scaled_mm,
    concat_activation_quant,
    modulated_norm_quant,
    norm_quant,
    norm_rope,
    quant,
    rope,
    scaled_mm,
)
from helion_compile.kernels.arguments import takes
from helion_compile.kernels.families.norm_rope import NormRopeArgs
from helion_compile.kernels.families.rope import RopeArgs
from helion_compile.tune.cases import Layer

__all__ = ["LAYERS", "SUBJECTS", "Subject"]

# hidden size, inner size, that of all query heads, of one head, heads of keys
LAYERS = {
    "Qwen3-8B": Layer(4096, 12288, 4096, 128, 8),
    "Qwen3-32B": Layer(5120, 25600, 8192, 128, 8),
    "Llama-3-8B": Layer(4096, 14336, 4096, 128, 8),
    "Llama-3-70B": Layer(8192, 28672, 8192, 128, 8),
}
HEAD = 128


def _rows(**fields: Any) -> Callable[[int], Iterator[dict[str, Any]]]:
    """None for a K that is not made of whole groups."""
    return lambda k: iter([] if k % fields.get("group", 1) else [{"hidden_size": k, **fields}])


def _beside_attention(k: int) -> Iterator[dict[str, Any]]:
    """Attention and an activation four times as wide."""
    yield {"hidden_size": 5 * k, "front_size": k, "gated": False}


def _heads(pairs: str, **fields: Any) -> Callable[[int], Iterator[dict[str, Any]]]:
    """None for a K that is not made of whole heads."""

    def of(k: int) -> Iterator[dict[str, Any]]:
        heads, rest = divmod(k, HEAD)
        return iter([] if rest else [{"head_dim": HEAD, "num_heads": heads, "rotary_dim": HEAD, "pairs": pairs, **fields}])

    return of


def _weights(k: int) -> Iterator[dict[str, Any]]:
    """The linears of ``LAYERS`` with so many inputs."""
    shapes = scaled_mm.tuning.shapes or (lambda layer: ())
    seen = {fields["n"]: dict(fields) for layer in LAYERS.values() for fields in shapes(layer) if fields["k"] == k}
    return (seen[n] for n in sorted(seen))


def _blocks(k: int) -> Iterator[dict[str, Any]]:
    """The same with scales of groups and blocks."""
    return ({"k": k, "n": fields["n"], "scales": "block", "library": "torch"} for fields in _weights(k))


def _keep_arguments(*args: Any) -> tuple[Any, ...]:
    return args


@dataclass(frozen=True)
class Subject:
    """A kernel with some attributes, and what a model writes instead.

    Attributes:
        fields: takes K, gives the exact key fields of its cases: one, for GEMMs one for each N, none where there is no such K.
        attributes: arguments of the kernel by name, in place of those that the tuner makes.
        written: what Inductor is given; by default the kernel's ``reference``.
        prepare: makes the arguments of ``written`` from those of the kernel.
        adjust: changes the kernel's arguments, a NamedTuple.
        library: the library's call, where it has one that does the same; Inductor is no baseline then.
        check_eager: compare results with eager PyTorch's: Inductor does not keep the roundings of a model, and where two
            products nearly cancel that is far.
    """

    kernel: HelionKernel
    fields: Callable[[int], Iterator[dict[str, Any]]]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    written: Callable[..., Any] | None = None
    prepare: Callable[..., tuple[Any, ...]] = _keep_arguments
    adjust: Callable[[Any], tuple[Any, ...]] = lambda args: args
    library: Callable[..., Any] | None = None
    check_eager: bool = False

    def case(self, fields: Mapping[str, Any], tokens: int) -> Case:
        return Case(**{"dtype": "bf16", **fields, "num_tokens": tokens})

    def arguments(self, case: Case, device: torch.device) -> tuple[Any, ...]:
        """Fresh ones with random values."""
        made: Any = self.kernel.tuning.make_inputs(case, device)
        return self.adjust(made._replace(**self.attributes))


def _rotated_halves(x, cos, sin):
    x1, x2 = x.chunk(2, -1)
    return x * cos.unsqueeze(2) + torch.cat((-x2, x1), -1) * sin.unsqueeze(2)


def _norm_rotated(x, cos, sin, weight, eps):
    x32 = x.float()
    normed = weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)
    return _rotated_halves(normed, cos, sin)


def _stacked_pairs(x, cos, sin):
    x1, x2, cos, sin = x[..., ::2], x[..., 1::2], cos.unsqueeze(2), sin.unsqueeze(2)
    return torch.stack((x1 * cos - x2 * sin, x1 * sin + x2 * cos), -1).flatten(-2)


def _written_pairs(x, cos, sin):
    x1, x2, cos, sin = x[..., ::2], x[..., 1::2], cos.unsqueeze(2), sin.unsqueeze(2)
    out = torch.empty_like(x)
    out[..., ::2] = x1 * cos - x2 * sin
    out[..., 1::2] = x1 * sin + x2 * cos
    return out


def _complex_pairs(x, frequencies):
    rotated = torch.view_as_complex(x.float().unflatten(-1, (-1, 2))) * frequencies.unsqueeze(2)
    return torch.view_as_real(rotated).flatten(-2).type_as(x)


def _join_tables(args):
    return args.x, torch.cat((args.cos1, args.cos2), -1), torch.cat((args.sin1, args.sin2), -1)


@takes(RopeArgs)
def _make_rotated_arguments(args):
    return _join_tables(args)


@takes(NormRopeArgs)
def _make_norm_rotated_arguments(args):
    return *_join_tables(args), args.weight, args.eps


@takes(RopeArgs)
def _take_first_tables(args):
    return args.x, args.cos1, args.sin1


def _split_one_tensor(args: RopeArgs) -> RopeArgs:
    """Tables of fp32 as the parts of one complex tensor, each used for both elements of a pair: Llama 4's."""
    parts = torch.stack((args.cos1.float(), args.sin1.float()), -1)
    cos, sin = parts[..., 0], parts[..., 1]
    return args._replace(cos1=cos, sin1=sin, cos2=cos, sin2=sin, stepwise=False)


def _share_tables(args: RopeArgs) -> RopeArgs:
    return args._replace(cos2=args.cos1, sin2=args.sin1)


@takes(RopeArgs)
def _make_frequencies(args):
    return args.x, torch.complex(args.cos1, args.sin1)


_NEOX: dict[str, Any] = {"written": _rotated_halves, "prepare": _make_rotated_arguments}
_INTERLEAVED: dict[str, Any] = {"written": _stacked_pairs, "prepare": _take_first_tables, "adjust": _share_tables}
_EXACT: dict[str, Any] = {"attributes": {"exact": True}}
_SILU_MUL = {"gated": True}

SUBJECTS: dict[str, Subject] = {
    "norm_quant": Subject(norm_quant, _rows(residual=False)),
    "norm_quant exact": Subject(norm_quant, _rows(residual=False), **_EXACT),
    "norm_quant group": Subject(norm_quant, _rows(residual=False, group=128)),
    "norm_quant static": Subject(norm_quant, _rows(residual=False, static=True)),
    "add_norm_quant": Subject(norm_quant, _rows(residual=True)),
    "add_norm_quant group": Subject(norm_quant, _rows(residual=True, group=128)),
    "add_norm_quant static": Subject(norm_quant, _rows(residual=True, static=True)),
    "layer_norm_quant": Subject(norm_quant, _rows(residual=False, kind="layer")),
    "layer_norm_quant static": Subject(norm_quant, _rows(residual=False, kind="layer", static=True)),
    "modulated_norm_quant": Subject(modulated_norm_quant, _rows(kind="layer", residual=False)),
    "modulated_norm_quant static": Subject(modulated_norm_quant, _rows(kind="layer", residual=False, static=True)),
    "gated_modulated_norm_quant": Subject(modulated_norm_quant, _rows(kind="layer", residual=True)),
    "quant": Subject(quant, _rows()),
    "quant group": Subject(quant, _rows(group=128)),
    "quant static": Subject(quant, _rows(static=True)),
    "activation_quant": Subject(activation_quant, _rows(**_SILU_MUL)),
    "activation_quant exact": Subject(activation_quant, _rows(**_SILU_MUL), **_EXACT),
    "activation_quant group": Subject(activation_quant, _rows(**_SILU_MUL, group=128)),
    "activation_quant static": Subject(activation_quant, _rows(**_SILU_MUL, static=True)),
    "activation_quant gelu": Subject(activation_quant, _rows(**_SILU_MUL), {"function": "gelu_tanh"}),
    "activation_quant alone": Subject(activation_quant, _rows(gated=False), {"function": "relu_squared"}),
    "activation_quant alone static": Subject(activation_quant, _rows(gated=False, static=True), {"function": "gelu"}),
    "concat_activation_quant": Subject(concat_activation_quant, _beside_attention),
    "rope": Subject(rope, _heads("neox"), **_NEOX),
    "rope exact": Subject(rope, _heads("neox"), **_NEOX, **_EXACT, check_eager=True),
    "rope interleaved": Subject(rope, _heads("interleaved"), **_INTERLEAVED),
    "rope interleaved, written": Subject(rope, _heads("interleaved"), **_INTERLEAVED | {"written": _written_pairs}),
    "rope of complex numbers": Subject(
        rope, _heads("interleaved"), written=_complex_pairs, prepare=_make_frequencies, adjust=_split_one_tensor
    ),
    "norm_rope": Subject(
        norm_rope, _heads("neox", over_heads=False), written=_norm_rotated, prepare=_make_norm_rotated_arguments
    ),
    "norm_rope exact": Subject(
        norm_rope,
        _heads("neox", over_heads=False),
        written=_norm_rotated,
        prepare=_make_norm_rotated_arguments,
        **_EXACT,
        check_eager=True,
    ),
    "norm_rope over heads": Subject(norm_rope, _heads("neox", over_heads=True)),
    "scaled_mm": Subject(scaled_mm, _weights, library=scaled_mm.fallbacks["library"]),
    "block_scaled_mm": Subject(block_scaled_mm, _blocks, library=block_scaled_mm.fallbacks["library"]),
}
