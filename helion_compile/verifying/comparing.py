"""How far one result of a fused site is from the original's, and whether that is within the contract.

Steps: neighbouring values of the result's dtype are one step apart.  A result in fp32 whose original values all fit in a
narrower float (a scale that the model rounds to bf16) is measured in steps of that one, since its last bits say nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from helion_compile.verifying.contract import Contract
from passes.values import dtype_name

__all__ = ["Compared", "compare"]

_NARROW = (torch.bfloat16, torch.float16)
_ENOUGH = 1000  # elements: of fewer, one that rounds the other way moves the SQNR by more than the contract's margin


@dataclass(frozen=True)
class Compared:
    """One result of a site, fused and as it was.

    Attributes:
        output: its name in the meaning: "q", "scale", "sum".
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
    lost, made = (nan & ~f.isnan()), (~nan & ~t.isnan() & f.isnan())
    low, high = torch.minimum(o, t.nan_to_num(nan=math.nan)), torch.maximum(o, t)
    low, high = torch.where(t.isnan(), o, low), torch.where(t.isnan(), o, high)
    same = (f == o) | (nan & f.isnan())
    from_original = torch.where(same, 0.0, steps.between(f, o))
    outside = torch.where(same | ((f >= low) & (f <= high)), 0.0, torch.minimum(steps.between(f, low), steps.between(f, high)))
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
    broken = _broken(found, contract, int(lost.sum()), int(made.sum()), outside, same, truth is not None)
    return found if not broken else Compared(**{**vars(found), "broken": broken})


def _broken(
    found: Compared, contract: Contract, lost: int, made: int, outside: torch.Tensor, same: torch.Tensor, in_fp64: bool
) -> str:
    if lost or made:
        return f"{lost} NaNs of the original are numbers and {made} numbers are NaN"
    limit = contract.steps_of(found.dtype, in_fp64)
    beyond = _largest(torch.where(outside.isnan(), math.inf, outside))
    if beyond > limit:
        between = "the original" if contract.bits or not in_fp64 else "the original and the fp64 result"
        where = f"{_share(outside > limit)} of the elements"
        return f"{where} are up to {beyond:.3g} steps from {between}, where {limit:g} are allowed"
    rows = max(1, same.numel() // max(1, same.shape[-1])) if same.dim() else 1
    if contract.share is not None and found.differing > max(contract.share, 1 / rows):
        return f"{found.differing:.2%} of the elements differ, where {contract.share:.2%} are allowed"
    compared = found.sqnr is not None and found.original_sqnr is not None and same.numel() >= _ENOUGH
    if contract.margin is not None and compared and found.sqnr < found.original_sqnr - contract.margin:
        return (
            f"it is farther from the fp64 result than the original: {found.sqnr:.1f} dB, where the original has "
            f"{found.original_sqnr:.1f} dB"
        )
    return ""


class _Steps:
    """Distances in steps of the original's format."""

    def __init__(self, original: torch.Tensor, at_row_scale: bool) -> None:
        self.dtype = original.dtype
        self.integer = not original.dtype.is_floating_point
        if self.integer:
            return
        unit = original.dtype
        if unit == torch.float32:
            unit = next((narrow for narrow in _NARROW if torch.equal(original, original.to(narrow).float())), unit)
        self.info = torch.finfo(unit)
        self.row = None
        if at_row_scale and original.dim():
            self.row = original.double().abs().nan_to_num(nan=0.0, posinf=0.0).amax(-1, keepdim=True)

    def between(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """|a - b| in steps at the smaller of the two, elementwise."""
        if self.integer:
            return (a - b).abs()
        size = torch.minimum(a.abs(), b.abs()) if self.row is None else torch.maximum(b.abs(), self.row)
        exponent = torch.frexp(size.clamp(min=self.info.smallest_normal)).exponent.double() - 1
        return (a - b).abs() / (torch.exp2(exponent) * self.info.eps)


def _sqnr(truth: torch.Tensor, value: torch.Tensor) -> float | None:
    """dB; None for no difference."""
    usable = truth.isfinite() & value.isfinite()
    noise = float(torch.where(usable, truth - value, 0.0).square().sum())
    signal = float(torch.where(usable, truth, 0.0).square().sum())
    return 10 * math.log10(signal / noise) if noise and signal else None


def _largest(values: torch.Tensor) -> float:
    return float(values.nan_to_num(nan=math.inf).max()) if values.numel() else 0.0


def _share(where: torch.Tensor) -> str:
    return f"{float(where.double().mean()):.2%}"
