# SPDX-License-Identifier: Apache-2.0
"""Which configs to try: seeds from what is known, then steps from the best so far through Helion's own config space."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from helion_compile.configs.case import Case
from helion_compile.definitions.spec import KernelSpec
from helion_compile.tune.compiling import inputs_without_values, representative
from helion_compile.tune.journal import config_text

__all__ = ["Moves", "Space"]

Config = Mapping[str, Any]

MOST_ELEMENTS = 256  # of the rows at hand, a thread. With 512 ptxas took 14 s, with 1024 68 s, and all were spilled


class Space:
    """The configs that Helion allows for a kernel and its exact key fields."""

    def __init__(self, kernel: KernelSpec, case: Case) -> None:
        case = representative(
            case.replace(**{name: 16 for name in kernel.configs.bucketed if name in case}), kernel.configs.bucketed
        )
        self.bound = kernel.helion.bind(inputs_without_values(kernel, case))
        self.spec = self.bound.config_spec
        self.generation = self.spec.create_config_generation()
        self.names: list[str] = []
        for name, count, _ in self.spec.flat_key_layout():
            self.names += [name] * count
        # What Helion fills in where a config says nothing; its default config also depends on the GPU it sees.
        self.tunables = {name: fragment.default() for name, fragment in self.spec.user_defined_tunables.items()}
        self.defaults = {"block_sizes": list(self.spec.default_config().config["block_sizes"]), **self.tunables}
        self.spec.normalize(self.defaults)
        self._codes: dict[str, str] = {}
        self.used = self._find_used()
        # Of a loop over rows within a program's rows, the inner block alone is in registers at a time.
        self.tiled = len(self.bound.host_function.device_ir.grid_block_ids[0]) == 2

    def whole(self, config: Config) -> dict[str, Any] | None:
        """``config`` as Helion completes it, or None where Helion refuses it."""
        import helion

        padded = dict(config)
        for name in self.used:
            values = list(padded.get(name) or [])
            padded[name] = [*values, *self.defaults[name][len(values) :]]
        try:
            return dict(self.generation.unflatten(self.generation.flatten(helion.Config(**padded))).config)
        except Exception:  # a config of another kernel version, or for another shape
            return None

    def code(self, config: Config) -> str:
        """The module that Helion generates."""
        import helion

        text = config_text(config)
        if text not in self._codes:
            self._codes[text] = self.bound.to_triton_code(helion.Config(**config))
        return self._codes[text]

    def small(self, config: Config) -> dict[str, Any]:
        """``config`` without what Helion fills in anyway; what matters most always stays, to be read."""
        # A tunable of the kernel's own has to be there, as Helion fills none in.
        always = ("block_sizes", "num_warps", "reduction_loops", *self.tunables)
        small = {name: value for name, value in config.items() if name in always or value != self.defaults.get(name)}
        for name, used in self.used.items():
            if name not in small:
                continue
            neutral = self.defaults[name][0]
            values = [value if i in used else neutral for i, value in enumerate(small[name])]
            while values and values[-1] == neutral:
                values.pop()
            small[name] = values
            if not values:
                del small[name]
        if small.get("pid_type", "flat") == "flat":
            small.pop("num_sm_multiplier", None)
        return small if self.code(small) == self.code(config) else dict(config)

    def _find_used(self) -> dict[str, set[int]]:
        """By name of a list with an entry for each load or store: the entries that reach the generated code.

        Helion counts loads in branches that it then drops, too.
        """
        found = {}
        base = self.code(self.defaults)
        for name, other in (("load_eviction_policies", "last"),):
            values = self.defaults.get(name) or []
            changed = [[*values[:i], other, *values[i + 1 :]] for i in range(len(values))]
            found[name] = {i for i, new in enumerate(changed) if self.code({**self.defaults, name: new}) != base}
        return found

    def seeds(self, known: Iterable[Config]) -> list[dict[str, Any]]:
        """The known ones, Helion's default, and from the first: every warp count, rolled or not, other grids and blocks."""
        bases = [config for config in map(self.whole, known) if config]
        bases.append(dict(self.spec.default_config().config))
        found = list(bases)
        base = bases[0]
        for loops in _distinct([[None] * len(base.get("reduction_loops") or []), base.get("reduction_loops")]):
            for warps in (1, 2, 4, 8, 16, 32):
                found.append({**base, **({"reduction_loops": loops} if loops else {}), "num_warps": warps})
        for warps in _distinct([base.get("num_warps", 4), max(1, base.get("num_warps", 4) // 2)]):
            for multiplier in (2, 4, 8):
                found.append(
                    {**base, "num_warps": warps, "pid_type": "persistent_interleaved", "num_sm_multiplier": multiplier}
                )
        if self.tiled:
            whole, width = self._whole_reduction(), 1 << (self.spec.block_sizes[1].size_hint - 1).bit_length()
            for elements, warps in itertools.product((256, 512, 1024, 2048, 4096, 8192), (1, 2, 4, 8)):
                if 4 <= elements // (32 * warps) <= 32:
                    columns = min(max(elements // whole, 1), width)
                    found.append({**base, "block_sizes": [1, columns], "num_warps": warps})
        # A block of rows a program where a kernel loops over one: what it loads before the loop is then read less often.
        elif len(base.get("block_sizes") or []) == 2:
            inner = base["block_sizes"][1]
            for warps in _distinct([base.get("num_warps", 4), max(1, base.get("num_warps", 4) // 2)]):
                found += [{**base, "num_warps": warps, "block_sizes": [rows * inner, inner]} for rows in (2, 4, 8, 16)]
        policies, used = self.defaults.get("load_eviction_policies") or [], sorted(self.used["load_eviction_policies"])
        for choices in (["first"] + ["last"] * len(used), ["first"] * len(used)) if used else ():
            chosen = dict(zip(used, choices, strict=False))
            found.append({**base, "load_eviction_policies": [chosen.get(i, "") for i in range(len(policies))]})
        return _unique(config for config in map(self.whole, found) if config and self.fits(config))

    def fits(self, config: Config) -> bool:
        """Whether the rows that a program holds at once are no more than its threads have registers for, nearly."""
        whole = self._whole_reduction(config.get("reduction_loops"))
        blocks = config.get("block_sizes") or [1]
        rows = math.prod(blocks) if self.tiled else blocks[-1]
        return whole * rows <= MOST_ELEMENTS * 32 * config.get("num_warps", 4)

    def _whole_reduction(self, loops: Sequence[int | None] | None = None) -> int:
        """Elements that one reduction holds at once, rounded up to a power of two; 1 where it loops or there is none."""
        specs = self.spec.reduction_loops
        chosen = loops or [None] * len(specs)
        sizes = [1 << (spec.size_hint - 1).bit_length() for spec, loop in zip(specs, chosen, strict=False) if loop is None]
        return max(sizes, default=1)

    def steps(self, config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every config one step away, with the name of the step: ``"num_warps 4 8"``."""
        import helion

        try:
            flat = self.generation.flatten(helion.Config(**config))
        except Exception:
            return
        blocks = config.get("block_sizes") or []
        loops = config.get("pid_type", "flat") != "flat" or any(config.get("reduction_loops") or []) or len(set(blocks)) > 1
        fields = list(enumerate(zip(self.names, self.generation.flat_spec, strict=False)))
        for index, (name, fragment) in sorted(fields, key=lambda field: _rank(field[1][0])):
            if name.startswith("range_") and not loops:  # they are about a loop that is not there
                continue
            try:
                values = fragment.pattern_neighbors(flat[index])
            except ValueError:  # a list of another length than Helion counts
                continue
            for value in values:
                if name in self.used and not self.used[name] & _where(flat[index], value):
                    continue
                changed = [*flat[:index], value, *flat[index + 1 :]]
                try:
                    neighbour = dict(self.generation.unflatten(changed).config)
                except Exception:  # not a config: some values exclude each other
                    continue
                if self.fits(neighbour):
                    yield f"{name}[{index}] {_change(flat[index], value)}", neighbour


class Moves:
    """How often each step helped, over all cases of a kernel: what never helps is tried less."""

    def __init__(self) -> None:
        self.tried: dict[str, int] = defaultdict(int)
        self.gain: dict[str, float] = defaultdict(float)
        self.unchanged: set[str] = set()

    def note(self, step: str, gain: float) -> None:
        self.tried[step] += 1
        self.gain[step] = max(self.gain[step], gain)

    def same_code(self, step: str) -> None:
        """The step changed nothing in the generated code."""
        self.unchanged.add(step)

    def failed(self, step: str) -> None:
        """The step gave a config that does not compile or run."""
        self.tried[step] += 3

    def order(self, steps: Iterable[tuple[str, Any]], most: int, patient: bool) -> list[tuple[str, Any]]:
        """The most promising first: those that helped, by how much; then the untried; then what did not help so far."""

        def is_pruned(step: str) -> bool:
            return step in self.unchanged or (not patient and self.tried[step] >= 6 and self.gain[step] < 0.01)

        def rank(step: str) -> tuple[int, float]:
            if not self.tried[step]:
                return 1, 0.0
            return (0, -self.gain[step]) if self.gain[step] >= 0.01 else (2, float(self.tried[step]))

        return sorted((entry for entry in steps if not is_pruned(entry[0])), key=lambda entry: rank(entry[0]))[:most]


# What usually matters most comes first; a step that helped in another case comes before all of them.
_IN_ORDER = ("num_warps", "block_sizes", "pid_type", "num_sm_multiplier", "reduction_loops", "load_eviction_policies")


def _rank(name: str) -> int:
    return _IN_ORDER.index(name) if name in _IN_ORDER else len(_IN_ORDER) + (name == "indexing")


def _change(old: Any, new: Any) -> str:
    if isinstance(old, list) and isinstance(new, list):
        return " ".join(f"{i}: {old[i]!r} {new[i]!r}" for i in sorted(_where(old, new)))
    return f"{old!r} {new!r}"


def _where(old: Any, new: Any) -> set[int]:
    return {i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b}


def _distinct(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _unique(configs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({config_text(config): config for config in configs}.values())
