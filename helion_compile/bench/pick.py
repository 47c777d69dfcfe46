# SPDX-License-Identifier: Apache-2.0
"""``python -m helion_compile bench pick``: what choosing a config costs on the host, beside vLLM's own picker.

The benchmark of https://github.com/vllm-project/vllm/pull/40850: 80 000 picks among 300 rows, for 8 shapes. It needs no
GPU. A pick is what a call does whose launch plan is not made yet: the kernel's case of the arguments, and the table's row
for it. Calls after that pick nothing (``bench launch`` times them), where vLLM picks in each.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice, product, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import torch

from helion_compile.bench.vllm_pickers import MissingPicker, VllmPickers
from helion_compile.cli.options import command, output_file
from helion_compile.configs.case import Case
from helion_compile.configs.gpu import Gpu
from helion_compile.configs.row import Row
from helion_compile.configs.table import ConfigTable, Pick
from helion_compile.helion_kernel import HelionKernel
from helion_compile.kernels import activation_quant, norm_quant

__all__ = ["Figure", "main", "measure"]

_GPU = Gpu("NVIDIA H200", (9, 0))
_ROWS = 300
_WIDTHS = (2048, 2880, 4096, 8192, 11008, 14336)
_TOKENS = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))  # sizes of vLLM's CUDA graphs
_SHAPES = ((1, 2048), (7, 4096), (16, 4096), (33, 8192), (64, 11008), (128, 2880), (200, 14336), (4096, 4096))
_REPEATS = 7
_TOKEN_COUNTS = 100_000  # a server may see any


@dataclass(frozen=True)
class Figure:
    """One line of the report.

    Attributes:
        what: what was measured.
        value: in ``unit``; None when it could not be measured, and then ``note`` says why.
        goal: the most it may be, in ``unit``, or None.
    """

    what: str
    value: float | None
    unit: str = "µs"
    goal: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        return None if self.value is None or self.goal is None else self.value <= self.goal


@command("bench pick", __doc__)
@click.option("--picks", type=int, default=80_000, metavar="N", help="picks a run")
@click.option("--json", type=output_file, metavar="FILE", help="write the figures there too")
@click.option("--vllm", type=Path, metavar="PATH", help="vllm wheel or folder (default: the installed vllm)")
@click.option("--check", is_flag=True, help="exit with 1 when a goal is missed or not measured")
def main(options: SimpleNamespace) -> int:
    """Prints the figures; returns 1 when ``--check`` finds a goal missed or not measured."""
    if options.picks < len(_SHAPES):
        raise click.UsageError(f"--picks is {options.picks}, and each of the {len(_SHAPES)} shapes needs one")
    figures = measure(options.picks, options.vllm)
    _show(figures)
    if options.json:
        options.json.write_text(json.dumps(_record(figures, options.picks), indent=2) + "\n")
    return int(options.check and not all(figure.met for figure in figures if figure.goal is not None))


def measure(picks: int = 80_000, vllm: Path | None = None) -> list[Figure]:
    """All figures. A time is the best of several runs, because other work on the machine can only add to it."""
    with tempfile.TemporaryDirectory() as folder:
        cases = [_case(tokens, width) for tokens, width in islice(product(_TOKENS, _WIDTHS), _ROWS)]
        table = _table(folder, "bench_pick", cases)
        return [
            *_from_cases(table, picks),
            *_from_arguments(activation_quant, folder, "silu_mul_fp8", picks, vllm),
            *_from_arguments(norm_quant, folder, "rms_norm_dynamic_per_token_quant", picks, vllm),
            _memory(table),
        ]


def _table(folder: str, name: str, cases: list[Case]) -> ConfigTable:
    table = ConfigTable(name, folders=[folder])
    table.add([Row(case, {"num_warps": 4}) for case in cases], _GPU)
    return table


def _from_cases(table: ConfigTable, picks: int) -> list[Figure]:
    cases = [(_case(*shape), _GPU) for shape in _SHAPES]
    unseen = [(_case(tokens, width), _GPU) for tokens in range(1, 1 + picks // len(_SHAPES)) for _, width in _SHAPES]
    return [
        Figure("a case seen before", _best(table.pick, cases, picks), goal=0.2),
        Figure("a new case", _best(table.pick, unseen, len(unseen), before=table.reload), goal=5),
    ]


def _from_arguments(kernel: HelionKernel, folder: str, op: str, picks: int, vllm: Path | None) -> list[Figure]:
    """What a call of ``kernel`` does to pick, beside vLLM's picker of ``op``, which is for the same work."""
    tuned = list(islice(product(_TOKENS, _WIDTHS), _ROWS))
    table = _table(folder, kernel.short_name, [kernel.case(*_arguments(kernel, *shape)) for shape in tuned])

    def pick(*args: Any) -> Pick:
        return table.pick(kernel.case(*args), _GPU)

    arguments = [_arguments(kernel, *shape) for shape in _SHAPES]
    what = f"arguments of {kernel.short_name}"
    ours = Figure(what, _best(pick, arguments, picks), note="once for a launch plan")
    make_args, width, tokens = _VLLM[op]
    try:
        pickers = VllmPickers(vllm)
        keys = [pickers.case_key({width: k, tokens: m}) for m, k in tuned]
        theirs = _best(pickers.load(op), [(make_args(*shape), keys) for shape in _SHAPES], picks)
    except MissingPicker as missing:
        return [ours, Figure(f"arguments of {op}, vLLM", None, note=str(missing))]
    return [ours, Figure(f"arguments of {op}, vLLM", theirs, note="in every call")]


def _arguments(kernel: HelionKernel, tokens: int, width: int) -> tuple[Any, ...]:
    case = _case(tokens, width).replace(dtype="bf16", gated=True, residual=False)
    return kernel.tuning.make_inputs(case, torch.device("meta"))


def _empty(tokens: int, width: int) -> torch.Tensor:
    return torch.empty(tokens, width, dtype=torch.bfloat16, device="meta")


# Operator of vLLM -> its arguments for a shape, and its names of width and tokens.  The first is taken for the picker that
# vllm#40850 measured: it has 308 rows and takes about the PR's time; the PR names none.
_VLLM: dict[str, tuple[Callable[[int, int], tuple[Any, ...]], str, str]] = {
    "silu_mul_fp8": (lambda m, k: (_empty(m, 2 * k), _empty(m, k)), "intermediate", "numtokens"),
    "rms_norm_dynamic_per_token_quant": (
        lambda m, k: (*[_empty(m, k)] * 4, 1e-6, None, None),
        "hidden_size",
        "num_tokens",
    ),
}


def _memory(table: ConfigTable) -> Figure:
    """Growth after every token count."""
    table.reload()
    table.pick(_case(1, 4096), _GPU)
    tracemalloc.start()
    try:
        for tokens in range(1, 1 + _TOKEN_COUNTS):
            table.pick(_case(tokens, 4096), _GPU)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return Figure(f"memory after {_TOKEN_COUNTS} token counts", grown / 2**20, "MiB", goal=4)


def _case(tokens: int, width: int) -> Case:
    return Case(hidden_size=width, num_tokens=tokens)


def _best(
    function: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    calls: int,
    before: Callable[[], None] = lambda: None,
) -> float:
    """Microseconds a call over ``calls`` calls that go round ``arguments``, the loop included."""
    rounds = list(islice(chain.from_iterable(repeat(arguments)), calls))
    return min(_seconds(function, rounds, before, arguments[0]) for _ in range(_REPEATS)) / len(rounds) * 1e6


def _seconds(
    function: Callable[..., Any],
    rounds: Iterable[tuple[Any, ...]],
    before: Callable[[], None],
    first: tuple[Any, ...],
) -> float:
    before()
    function(*first)  # reads the table's files, which no later pick does
    start = time.perf_counter()
    for args in rounds:
        function(*args)
    return time.perf_counter() - start


def _record(figures: list[Figure], picks: int) -> dict[str, Any]:
    return {
        "picks": picks,
        "rows": _ROWS,
        "shapes": len(_SHAPES),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "figures": [{**asdict(figure), "met": figure.met} for figure in figures],
    }


def _show(figures: list[Figure]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"A pick among {_ROWS} rows, {len(_SHAPES)} shapes")
    table.add_column("pick from")
    for column in ("measured", "at most", ""):
        table.add_column(column, justify="right")
    for figure in figures:
        value = "–" if figure.value is None else f"{figure.value:.3f} {figure.unit}"
        goal = "" if figure.goal is None else f"{figure.goal:.3f}"
        verdict = {True: "met", False: "missed", None: ""}[figure.met]
        table.add_row(figure.what, value, goal, verdict)
    console = Console()
    console.print(table)
    for note in dict.fromkeys(f"{figure.what}: {figure.note}" for figure in figures if figure.note):
        console.print(note, markup=False, highlight=False)
