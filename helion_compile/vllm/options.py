# SPDX-License-Identifier: Apache-2.0
"""Options of the pass inside vLLM."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helion_compile.frontend.options import Options

__all__ = ["OPTIONS", "SWITCH", "checked", "from_environment", "share_environment", "wanted"]

SWITCH, OPTIONS = "HELION_COMPILE_VLLM", "HELION_COMPILE_VLLM_OPTIONS"
_OURS = "HELION_COMPILE_"  # with which the names of all our variables begin
_COPIED = "VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY"


def wanted() -> bool:
    """Whether the environment asks for the plug-in."""
    return os.environ.get(SWITCH) == "1"


def share_environment() -> None:
    """Have vLLM give our variables to the engines and workers that Ray starts, which get no others than it knows of."""
    prefixes = [prefix.strip() for prefix in os.environ.get(_COPIED, "").split(",") if prefix.strip()]
    if _OURS not in prefixes:
        os.environ[_COPIED] = ",".join([*prefixes, _OURS])


def from_environment() -> dict[str, Any]:
    """The plug-in's options: JSON in ``HELION_COMPILE_VLLM_OPTIONS``, such as ``{"disable": ["quant"]}``.

    Raises:
        ValueError, TypeError: it is no such thing.
    """
    text = os.environ.get(OPTIONS, "{}")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{OPTIONS} is {text!r}, and no JSON: {error}") from None
    if not isinstance(found, dict):
        raise TypeError(f'{OPTIONS} is {text!r}; it is an object, such as {{"disable": ["quant"]}}')
    return found


def checked(options: Mapping[str, Any]) -> Options:
    """The options as ``backend="helion"`` knows them.

    Raises:
        ValueError, TypeError: one that there is not, or one with a value it cannot have.
    """
    from helion_compile.frontend.options import Options  # imports Helion

    ours, others = Options.split(options)
    if others:
        raise ValueError(
            f"there is no option {', '.join(map(repr, others))}; the options are {', '.join(Options.__dataclass_fields__)}"
        )
    if ours.verify:
        raise ValueError("verify is no option inside vLLM, which compiles a graph before there are values to run it on")
    return ours
