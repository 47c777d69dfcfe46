# SPDX-License-Identifier: Apache-2.0
"""The options of ``torch.compile(model, backend="helion", options=…)`` that are ours."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from helion_compile.definitions.fingerprint import digest_packages
from helion_compile.errors import check_type
from helion_compile.fusions import NUMERICS, fusions, identity
from helion_compile.passes.account.records import GraphRecord
from helion_compile.passes.rewrite.fusion_pass import FusionPass

__all__ = ["DISABLE", "Options", "log"]

DISABLE = "HELION_COMPILE_DISABLE"  # "1": no fusions; "quant,norm_quant": not these

log = logging.getLogger("helion_compile")


@dataclass(frozen=True)
class Options:
    """Our entries of ``torch.compile(options=...)``; the others go to Inductor.

    Attributes:
        numerics: "default" keeps intermediate values of a fused chain in fp32, as Inductor does; "exact" keeps every
            rounding step of the eager model.
        disable: names of fusions to leave out; ``HELION_COMPILE_DISABLE`` in the environment adds to them.
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
        for name in theirs:
            check_type("a name in options", name, str, "a text, such as 'numerics'")
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

    def _disabled(self) -> tuple[str, ...]:
        """The fusions to leave out, those that the environment names among them."""
        names = [fusion.name for fusion in fusions(self.numerics, self.untuned)]
        asked = [each.strip() for each in os.environ.get(DISABLE, "").split(",") if each.strip() not in ("", "0")]
        if "1" in asked:
            return tuple(names)
        if unknown := [each for each in asked if each not in names]:
            raise ValueError(
                f"{DISABLE} names {', '.join(unknown)}, which is no fusion; it is 1, or names of {', '.join(names)} with "
                f"commas between them."
            )
        return (*self.disable, *asked)

    def fusion_pass(
        self,
        log: logging.Logger = log,
        on_record: Callable[[GraphRecord], None] | None = None,
        **more: Any,
    ) -> FusionPass:
        """The pass these options ask for; it tells ``log`` what it did.  ``more`` goes to :class:`FusionPass`.

        Raises:
            ValueError: ``disable``, ``only`` or ``HELION_COMPILE_DISABLE`` has a name that no fusion has.
        """
        return FusionPass(
            fusions(self.numerics, self.untuned),
            strict=self.strict,
            disable=self._disabled(),
            only=self.only,
            identity=f"{identity(self.numerics)} untuned={self.untuned} {digest_packages()}",
            on_record=on_record,
            log=log,
            **{"keep_code": True, **more},  # a report shows it
        )
