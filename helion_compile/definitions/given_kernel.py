# SPDX-License-Identifier: Apache-2.0
"""What counts of a ``helion.kernel`` object that a kernel is made of; what cannot hold is refused, or said in the log."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

from helion_compile.configs.case import Case

__all__ = ["check_given", "copy_settings", "find_given_candidates", "find_given_config", "settings_that_make_code"]

log = logging.getLogger(__name__)
_NEVER_ASKED = ("autotuner_fn", "force_autotune")
# An effort of "none" says no more than what holds anyway, and a seed's default is drawn from the clock.
_HARMLESS = ("autotune_effort", "autotune_random_seed")


def find_given_config(fn: Any) -> Callable[[Case], Mapping[str, Any]] | None:
    """The first config of a helion.kernel object, which its author chose."""
    configs = getattr(fn, "configs", None)
    return (lambda case: configs[0].config) if configs else None


def find_given_candidates(fn: Any) -> Callable[[Case], list[Mapping[str, Any]]] | None:
    """The configs of a helion.kernel object among which Helion would choose by measuring them."""
    configs = getattr(fn, "configs", None) or ()
    return (lambda case: [each.config for each in configs]) if len(configs) > 1 else None


def settings_that_make_code(given: Any) -> tuple[str, ...]:
    """Of a helion.kernel object, the settings and configs that change what it computes or how well a config does."""
    if given is None:
        return ()
    names = ("backend", "index_dtype", "dot_precision", "fast_math", "static_shapes", "allow_warp_specialize")
    return (*(f"{name}={getattr(given.settings, name, None)}" for name in names), repr(given.configs))


def check_given(kernel: str, given: Any) -> None:
    """Of a helion.kernel object, refuse settings that can never hold, and log the others that do not.

    Raises:
        TypeError: it brings an autotuner of its own, or asks for tuning at each first call.
    """
    unlike = _list_changed(given.settings)
    for name in _NEVER_ASKED:
        if name in unlike:
            raise TypeError(
                f"{kernel}: the helion.kernel has {name}=…, and Helion's tuner is never asked: configs come from tables. "
                f"Leave it out, and tune by `helion-compile tune`, or give configs=Configs(default=…)."
            )
    unused = [name for name in unlike if name.startswith("autotune") and name not in _HARMLESS]
    if unused:
        log.warning(
            "%s: %s of the helion.kernel have no effect, since configs come from tables. Tune by `helion-compile tune`.",
            kernel,
            ", ".join(f"{name}=…" for name in unused),
        )
    if given.settings.static_shapes:
        log.warning(
            "%s: the helion.kernel has static_shapes=True, Helion's default, so each new size is traced and compiled when it "
            "first comes. Write helion.kernel(static_shapes=False), or pass the plain function.",
            kernel,
        )


def copy_settings(given: Any) -> dict[str, Any]:
    """All settings of a helion.kernel object, by name."""
    return {field.name: getattr(given.settings, field.name) for field in _list_fields(given.settings)}


def _list_changed(settings: Any) -> list[str]:
    """Names of the settings that are not Helion's defaults, or the environment's."""
    usual = type(settings)()
    return [field.name for field in _list_fields(settings) if getattr(settings, field.name) != getattr(usual, field.name)]


def _list_fields(settings: Any) -> tuple[dataclasses.Field[Any], ...]:
    return tuple(field for field in dataclasses.fields(settings) if field.init)
