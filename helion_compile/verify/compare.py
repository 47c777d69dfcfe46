# SPDX-License-Identifier: Apache-2.0
"""How far one result of a fused site is from the original's, and whether that is within the contract.

Steps: neighbouring values of the result's dtype are one step apart.  A result in fp32 whose original values all fit in a
narrower float (a scale that the model rounds to bf16) is measured in steps of that one, since its last bits say nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from helion_compile.passes.ir.values import dtype_name
from helion_compile.verify.contract import Contract

__all__ = ["Compared", "compare"]

_NARROW = (torch.bfloat16, torch.float16)
_ENOUGH = 1000  # elements: of fewer, one that rounds the other way moves the SQNR by more than the contract's margin
_CHANCE = 4.0  # standard deviations


@dataclass(frozen=True)
class Compared:
    """One result of a site, fused and as it was.

    Attributes:
        output: its name in the semantic op: "q", "scale", "sum".
        max_error: the largest difference, in the result's own unit.
        max_steps: the same in steps; see the module's text.
        differing: the share of elements that differ at all.
        sqnr: dB of the result in fp64 over the fused one's difference from it; None where there is no such difference or
            no result in fp64.
        original_sqnr: the same for the original.
        broken: what is outside the contract, as a sentence; empty if nothing.
    """

    output: str
    dtype: str
    max_error: float
    max_steps: float
    differing: float
    sqnr: float | None = None
    original_sqnr: float | None = None
    broken: str = ""

    def __str__(self) -> str:
        if not self.differing:
            return f"{self.output}: equal"
        exactness = "" if self.sqnr is None else f", {self.sqnr:.1f} dB against fp64"
        if self.original_sqnr is not None:
            exactness = (exactness or ", as in fp64") + f" (original {self.original_sqnr:.1f} dB)"
        distance = f"by up to {self.max_steps:.3g} steps ({self.max_error:.3g})"
        return f"{self.output}: {self.differing:.2%} differ, {distance}{exactness}"


def compare(
    output: str, fused: torch.Tensor, original: torch.Tensor, truth: torch.Tensor | None, contract: Contract
) -> Compared:
    """Measure and judge.  All three have one shape; ``truth`` is the original computed in fp64 (quantised where it is)."""
    steps = _Steps(original, contract.at_row_scale)
    f, o = fused.double(), original.double()
    t = o if truth is None else truth.double()
    # Where the original is no number, the fused result has to be none either; elsewhere it may be any number.
    nan = o.isnan()
    # In default numerics there is no rounding on the way, so nothing overflows there that does not in fp64.
    overflown = (~o.isfinite() & t.isfinite()) if contract.margin is not None else torch.zeros_like(nan)
    lost, made = (nan & ~overflown & ~f.isnan()), (~nan & ~t.isnan() & f.isnan())
    first = torch.where(overflown, t, o)
    low, high = torch.minimum(first, t), torch.maximum(first, t)
    low, high = torch.where(t.isnan(), first, low), torch.where(t.isnan(), first, high)
    same = (f == o) | (nan & f.isnan())
    from_original = torch.where(same, 0.0, steps.between(f, o))
    cancelled = contract.cancelled * _row_scale(original) if contract.cancelled and original.dim() else 0.0
    beyond = torch.minimum(steps.between(f, low, cancelled), steps.between(f, high, cancelled))
    outside = torch.where(same | ((f >= low) & (f <= high)), 0.0, beyond)
    error = torch.where(same, 0.0, (f - o).abs())
    sqnr = None if truth is None else _sqnr(t, f)
    original_sqnr = None if truth is None else _sqnr(t, o)
    found = Compared(
        output,
        dtype_name(fused.dtype),
        _largest(error),
        _largest(from_original),
        float((~same).double().mean()) if same.numel() else 0.0,
        sqnr,
        original_sqnr,
    )
    noisy = contract.margin is not None and truth is not None and _noisier(t, f, o, contract.margin)
    # Of a scale in fp32 whose values were rounded to bf16, bf16 says which of them a sum's order may move.
    dtype = found.dtype if contract.share is None else steps.unit
    broken = _broken(found, contract, dtype, int(lost.sum()), int(made.sum()), outside, same, truth is not None, noisy)
    return found if not broken else Compared(**{**vars(found), "broken": broken})


def _broken(
    found: Compared,
    contract: Contract,
    dtype: str,
    lost: int,
    made: int,
    outside: torch.Tensor,
    same: torch.Tensor,
    in_fp64: bool,
    noisy: bool,
) -> str:
    if lost or made:
        return f"{lost} NaNs of the original are numbers and {made} numbers are NaN"
    limit = contract.steps_of(dtype, in_fp64)
    beyond = _largest(torch.where(outside.isnan(), math.inf, outside))
    if beyond > limit:
        between = "the original" if contract.bits or not in_fp64 else "the original and the fp64 result"
        where = f"{_share(outside > limit)} of the elements"
        return f"{where} are up to {beyond:.3g} steps from {between}, where {limit:g} are allowed"
    rows = max(1, same.numel() // max(1, same.shape[-1])) if same.dim() else 1
    if contract.share is not None and dtype != "fp32" and found.differing > max(contract.share, 1 / rows):
        return f"{found.differing:.2%} of the elements differ, where {contract.share:.2%} are allowed"
    if noisy and found.sqnr is not None and found.original_sqnr is not None and same.numel() >= _ENOUGH:
        return (
            f"it is farther from the fp64 result than the original: {found.sqnr:.1f} dB, where the original has "
            f"{found.original_sqnr:.1f} dB"
        )
    return ""


class _Steps:
    """Distances in steps of the original's format."""

    def __init__(self, original: torch.Tensor, at_row_scale: bool) -> None:
        self.dtype = original.dtype
        self.unit = dtype_name(original.dtype)
        self.integer = not original.dtype.is_floating_point
        if self.integer:
            return
        unit = original.dtype
        if unit == torch.float32:
            unit = next((narrow for narrow in _NARROW if torch.equal(original, original.to(narrow).float())), unit)
        self.unit, self.info = dtype_name(unit), torch.finfo(unit)
        self.row = None
        if at_row_scale and original.dim():
            self.row = _row_scale(original)

    def between(self, a: torch.Tensor, b: torch.Tensor, cancelled: torch.Tensor | float = 0.0) -> torch.Tensor:
        """|a - b| in steps at the smaller of the two, elementwise; what is in ``cancelled`` does not count."""
        distance = ((a - b).abs() - cancelled).clamp(min=0)
        if self.integer:
            return distance
        size = torch.minimum(a.abs(), b.abs()) if self.row is None else torch.maximum(b.abs(), self.row)
        exponent = torch.frexp(size.clamp(min=self.info.smallest_normal)).exponent.double() - 1
        return distance / (torch.exp2(exponent) * self.info.eps)


def _row_scale(value: torch.Tensor) -> torch.Tensor:
    """The largest finite magnitude of each row [..., 1]."""
    return value.double().abs().nan_to_num(nan=0.0, posinf=0.0).amax(-1, keepdim=True)


def _sqnr(truth: torch.Tensor, value: torch.Tensor) -> float | None:
    """dB; None for no difference."""
    noise = float(_errors(truth, value).sum())
    signal = float(torch.where(truth.isfinite() & value.isfinite(), truth, 0.0).square().sum())
    return 10 * math.log10(signal / noise) if noise and signal else None


def _noisier(truth: torch.Tensor, fused: torch.Tensor, original: torch.Tensor, margin: float) -> bool:
    """Whether ``fused`` is more than ``margin`` dB farther from ``truth`` than ``original``, and not by chance.

    Of 8-bit values only few differ from those in fp64, each by a step; twenty in the one and fifteen in the other are 1.2 dB.
    Chance is in the elements that differ between the two, where either may be the nearer one.
    """
    ours, theirs = _errors(truth, fused), _errors(truth, original)
    chance = math.sqrt(float((ours - theirs).square().sum()))
    return float(ours.sum()) > float(theirs.sum()) * 10 ** (margin / 10) + _CHANCE * chance


def _errors(truth: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The squared error of each element; 0 where either is no finite number."""
    return torch.where(truth.isfinite() & value.isfinite(), truth - value, 0.0).square()


def _largest(values: torch.Tensor) -> float:
    return float(values.nan_to_num(nan=math.inf).max()) if values.numel() else 0.0


def _share(where: torch.Tensor) -> str:
    return f"{float(where.double().mean()):.2%}"
