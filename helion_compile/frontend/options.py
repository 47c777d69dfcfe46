"""The options of ``torch.compile(model, backend="helion", options=…)`` that are ours."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from helion_compile.definitions.fingerprint import digest_packages
from helion_compile.fusions import NUMERICS, fusions, identity
from helion_compile.passes.account.records import GraphRecord
from helion_compile.passes.rewrite.fusion_pass import FusionPass

__all__ = ["Options", "log"]

log = logging.getLogger("helion_compile")


@dataclass(frozen=True)
class Options:
    """Our entries of ``torch.compile(options=...)``; the others go to Inductor.

    Attributes:
        numerics: "default" keeps intermediate values of a fused chain in fp32, as Inductor does; "exact" keeps every
            rounding step of the eager model.
        disable: names of fusions to leave out.
        only: names of the fusions to use, None for all.
        untuned: fuse also where no table and no measurement says that a kernel is faster on this GPU.
        strict: raise where the pass or ``verify`` fails, instead of leaving the graph as it was.
        verify: before a graph is compiled, run each fused site against what it replaces, on the values of that first call;
            where the contract of ``docs/numerics.md`` is broken, leave the original and warn.
    """

    numerics: str = "default"
    disable: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    untuned: bool = False
    strict: bool = False
    verify: bool = False

    @classmethod
    def split(cls, options: Mapping[str, Any] | None) -> tuple[Options, dict[str, Any]]:
        """Ours and Inductor's share of ``options``.

        Raises:
            ValueError, TypeError: one of ours has a value it cannot have.
        """
        if not isinstance(options, Mapping | None):
            raise TypeError(f"options is a {type(options).__name__}; give a dict, such as {{'numerics': 'exact'}}.")
        theirs = dict(options or {})
        ours = {name: theirs.pop(name) for name in cls.__dataclass_fields__ if name in theirs}
        for name in ("disable", "only"):
            if isinstance(ours.get(name), str) or not isinstance(ours.get(name, ()), Sequence | None):
                raise TypeError(f"options[{name!r}] is {ours[name]!r}; give a list of fusion names, such as ['quant'].")
            if name in ours and ours[name] is None:
                del ours[name]  # as if not given
            elif name in ours:
                ours[name] = tuple(ours[name])
        result = cls(**ours)
        if result.numerics not in NUMERICS:
            raise ValueError(f"options['numerics'] is {result.numerics!r}; it can be {' or '.join(map(repr, NUMERICS))}.")
        for name in ("untuned", "strict", "verify"):
            if not isinstance(value := getattr(result, name), bool):
                raise TypeError(f"options[{name!r}] is {value!r}; it is True or False.")
        return result, theirs

    def fusion_pass(
        self,
        log: logging.Logger = log,
        on_record: Callable[[GraphRecord], None] | None = None,
        **more: Any,
    ) -> FusionPass:
        """The pass these options ask for; it tells ``log`` what it did.  ``more`` goes to :class:`FusionPass`.

        Raises:
            ValueError: ``disable`` or ``only`` has a name that no fusion has.
        """
        return FusionPass(
            fusions(self.numerics, self.untuned),
            strict=self.strict,
            disable=self.disable,
            only=self.only,
            identity=f"{identity(self.numerics)} untuned={self.untuned} {digest_packages()}",
            on_record=on_record,
            log=log,
            **{"keep_code": True, **more},  # a report shows it
        )
