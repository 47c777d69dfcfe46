# SPDX-License-Identifier: Apache-2.0
"""The story of a report in three lines: what was gained over Inductor, what held most back, what to do next."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.reports.cause import causes
from helion_compile.reports.grouping import name_modules

if TYPE_CHECKING:
    from helion_compile.reports.model import Identity, ReportData

__all__ = ["Headline", "headline", "identity_text", "size_text"]

_COMMAND = "helion-compile"
_GUESSED = ("nearest", "default-case", "default")  # origins of configs that nobody measured for the case


@dataclass(frozen=True)
class Headline:
    """One sentence each; ``next`` is a command or a line of Python where there is one."""

    gain: str
    held_back: str
    next: str

    @property
    def lines(self) -> tuple[tuple[str, str], ...]:
        """Each with its label."""
        return ("gained", self.gain), ("held back", self.held_back), ("next", self.next)


def headline(report: ReportData) -> Headline:
    """The three lines of ``report``."""
    held_back, then = _held_back(report)
    return Headline(_gain(report), held_back, then)


def identity_text(identity: Identity) -> str:
    """ "Qwen3ForCausalLM on cpu, as on NVIDIA H200; torch 2.13.0, …; 2026-11-28 15:30; helion-compile explain …"."""
    versions = ", ".join(f"{name} {version}" for name, version in identity.versions.items())
    on = f" on {identity.device}" if identity.device else ""  # a function has no tensors of its own to tell it by
    as_on = "" if not identity.gpu else f" ({identity.gpu})" if "cuda" in on else f", as on {identity.gpu}"
    parts = (f"{identity.model}{on}{as_on}", versions, identity.date.replace("T", " "), identity.command)
    return "; ".join(part for part in parts if part)


def size_text(count: float) -> str:
    """ "12.9 kB"."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:  # which three digits round to 1000
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _gain(report: ReportData) -> str:
    if not report.sites:
        own = f"; {len(report.called)} calls of kernels are the model's own" if report.called else ""
        return f"nothing over Inductor: no chain was fused{own}."
    gain = report.gain
    told = (
        f"over Inductor (estimated) {gain.inductor.kernels} -> {gain.ours.kernels} kernels, "
        f"{size_text(gain.inductor.bytes)} -> {size_text(gain.ours.bytes)}"
    )
    count = "1 chain is" if gain.sites == 1 else f"{gain.sites} chains are"
    if gain.us is None or gain.inductor_us is None:
        why = f"no table of {gain.gpu} has these sizes" if gain.gpu else "they are those of a GPU"
        return f"{told}; {count} fused; no times, {why}."
    some = f"{gain.timed} of them take" if gain.timed < gain.sites else "it takes" if gain.sites == 1 else "they take"
    return (
        f"{told}; {count} fused; {some} {gain.us:.1f} µs, {gain.inductor_us:.1f} without us "
        f"({gain.inductor_us / gain.us:.2f}x), by the tables of {gain.gpu}."
    )


def _held_back(report: ReportData) -> tuple[str, str]:
    """What held most back, and what to do about it."""
    failed = next((graph.record.error for graph in report.graphs if graph.record.error), None)
    if failed:
        return f"{failed}.", f"{_COMMAND} env  # and report it: a pass that fails is a fault of ours"
    cause = next(iter(causes(report)), "")
    if any(graph.training for graph in report.graphs):
        return cause, "with torch.no_grad(): helion_compile.explain(model, *args)"
    if not report.graphs:
        return cause, "helion_compile.explain(model, *args)  # with the arguments of a call"
    if any(graph.unread for graph in report.graphs):
        return cause, "TORCHINDUCTOR_FORCE_DISABLE_CACHES=1 python …  # compiles, and tells all"
    if not report.sites and any(graph.record.left_out for graph in report.graphs):
        return cause, "unset HELION_COMPILE_DISABLE; leave the options 'disable' and 'only' out"
    refused = [
        _No(refusal.candidate, refusal.location.module, refusal)
        for refusal in report.refusals
        if refusal.kind is not RefusalKind.INDUCTOR  # whose code is as fast
    ]
    refused += [
        _No(site.fusion, site.location.module, site.refusal)
        for site in report.kept
        if site.refusal is not None and site.refusal.kind is RefusalKind.UNTUNED
    ]
    if not report.sites and cause:
        return cause, _cure(refused) if refused else _quantize(report)
    if refused:
        group, _ = Counter(each.group for each in refused).most_common(1)[0]
        alike = [each for each in refused if each.group == group]
        return f"{alike[0].candidate} in {name_modules(each.module for each in alike)}: {alike[0].refusal.found}.", _cure(
            alike
        )
    guessed = {fused.kernel.partition("@")[0] for fused in report.sites if fused.config.origin in _GUESSED}
    if guessed:
        names = sorted(guessed)
        return f"{', '.join(names)}: configs that nobody measured for these sizes.", f"{_COMMAND} tune {' '.join(names)}"
    if cause:
        left_out = any(graph.record.left_out for graph in report.graphs)
        return cause, _compile(report) if left_out else _quantize(report)
    return "nothing: every chain that can be faster was fused.", _compile(report)


class _No(NamedTuple):
    """A chain or a candidate that might have been fused."""

    candidate: str
    module: str
    refusal: Refusal

    @property
    def group(self) -> tuple[Any, ...]:
        refusal = self.refusal
        return self.candidate, refusal.kind, refusal.found_form


def _cure(refused: list[_No]) -> str:
    if untuned := dict.fromkeys(each.candidate for each in refused if each.refusal.kind is RefusalKind.UNTUNED):
        return f"{_COMMAND} tune {' '.join(untuned)}"
    return f"change the model: {refused[0].refusal.remedy}"


def _quantize(report: ReportData) -> str:
    if report.called:
        return _compile(report)
    return f"{_COMMAND} explain --quantize fp8-row --model …  # what fuses once the linears are quantised"


def _compile(report: ReportData) -> str:
    if not any(site.config.gpu for site in report.sites):
        return 'helion_compile.explain(model, *args, gpu="h200")  # choices and times of that GPU; in a terminal --gpu h200'
    return 'torch.compile(model, backend="helion", options={"verify": True})  # checks each kernel on your data'
