# SPDX-License-Identifier: Apache-2.0
"""Generated code and launches of many configs, for one state of the sources: run as a script, JSON in and JSON out.

:mod:`helion_compile.tune.restamp` runs this file twice, with two states of ``helion_compile`` in ``PYTHONPATH``.  So it
takes nothing of the package but what all these states have: ``helion_compile.kernels`` and ``tune.compiling``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

__all__ = ["generate_all"]


def generate_all(asked: dict[str, Any]) -> dict[str, Any]:
    """Answer what :func:`helion_compile.tune.restamp.ask` asks.

    Args:
        asked: ``target`` (see :class:`helion_compile.tune.compiling.Target`), and ``jobs``, each with the ``fingerprint``
            of its kernel's configs, the key fields of its ``case`` and its ``config``.

    Returns:
        ``root``, the folder of the package; ``kernels``, names by fingerprint; ``made``, for each job its ``source`` and
        ``launches``, or an ``error``.
    """
    import helion_compile
    from helion_compile import kernels
    from helion_compile.tune import compiling

    compiling.pretend(compiling.Target(*asked["target"]))
    found = {kernel.config_fingerprint: kernel.__name__ for kernel in (getattr(kernels, name) for name in kernels.__all__)}
    made = []
    for job in asked["jobs"]:
        try:
            made.append(_generate(compiling, found[job["fingerprint"]], job["case"], job["config"]))
        except Exception as error:  # whatever Helion throws: such a config is no proof
            made.append({"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]})
    return {"root": helion_compile.__path__[0], "kernels": found, "made": made}


def _generate(compiling: Any, name: str, fields: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    import helion

    from helion_compile.compat import PyCodeCache

    bound, args = compiling._bound(name, compiling.Case.from_json(fields))
    source = bound.to_triton_code(helion.Config(**config))
    launches: list[Any] = []

    def note(jit: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        launches.append([list(grid), list(map(_describe, arguments)), {name: repr(options[name]) for name in sorted(options)}])

    getattr(PyCodeCache.load(source), bound.kernel.name)(*args, _launcher=note)
    return {"source": source, "launches": launches}


def _describe(argument: Any) -> str:
    if hasattr(argument, "stride"):
        return f"{argument.dtype} {list(argument.shape)} {list(argument.stride())}"
    return repr(argument)


if __name__ == "__main__":
    answer = generate_all(json.load(sys.stdin))
    json.dump(answer, sys.stdout)
