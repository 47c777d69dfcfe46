"""``python -m helion_compile bench pick``: what choosing a config costs on the host, beside vLLM's own picker.

The benchmark of https://github.com/vllm-project/vllm/pull/40850: 80 000 picks among 300 rows, for 8 shapes. It needs no
GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice, product, repeat
from pathlib import Path
from typing import Any

from helion_compile.bench.vllm_pickers import MissingPicker, VllmPickers
from helion_compile.cli.options import output_file
from helion_compile.configs.table import Case, ConfigTable, Gpu, Pick, Row

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


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the figures; returns 1 when ``--check`` finds a goal missed or not measured."""
    parser = argparse.ArgumentParser(prog="python -m helion_compile bench pick", description=__doc__.splitlines()[0])
    parser.add_argument("--picks", type=int, default=80_000, metavar="N", help="picks a run (default: %(default)s)")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the figures there too")
    parser.add_argument("--vllm", type=Path, metavar="PATH", help="vllm wheel or folder (default: the installed vllm)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed or not measured")
    options = parser.parse_args(argv)
    if options.picks < len(_SHAPES):
        parser.error(f"--picks is {options.picks}, and each of the {len(_SHAPES)} shapes needs one")
    figures = measure(options.picks, options.vllm)
    _show(figures)
    if options.json:
        options.json.write_text(json.dumps(_record(figures, options.picks), indent=2) + "\n")
    return int(options.check and not all(figure.met for figure in figures if figure.goal is not None))


def measure(picks: int = 80_000, vllm: Path | None = None) -> list[Figure]:
    """All figures. A time is the best of several runs, because other work on the machine can only add to it."""
    with tempfile.TemporaryDirectory() as folder:
        cases = [Case(hidden_size=width, num_tokens=tokens) for tokens, width in product(_TOKENS, _WIDTHS)]
        table = ConfigTable("bench_pick", folders=[folder])
        table.add([Row(case, {"num_warps": 4}) for case in cases[:_ROWS]], _GPU)
        return [*_from_facts(table, picks), *_from_tensors(table, cases[:_ROWS], picks, vllm), _memory(table)]


def _from_facts(table: ConfigTable, picks: int) -> list[Figure]:
    cases = [(_case(*shape), _GPU) for shape in _SHAPES]
    pick = table.picker(_GPU, case=_case, key=lambda tokens, width: (tokens, width))
    unseen = [(tokens, width) for tokens in range(1, 1 + picks // len(_SHAPES)) for _, width in _SHAPES]
    unseen_cases = [(_case(*shape), _GPU) for shape in unseen]
    return [
        Figure("facts seen before, as a Case", _best(table.pick, cases, picks), goal=0.2),
        Figure("facts seen before, as sizes", _best(pick, _SHAPES, picks), goal=0.2),
        Figure("new facts, as a Case", _best(table.pick, unseen_cases, len(unseen), before=table.reload), goal=5),
        Figure("new facts, as sizes", _best(pick, unseen, len(unseen), before=table.reload), goal=5),
    ]


def _from_tensors(table: ConfigTable, cases: list[Case], picks: int, vllm: Path | None) -> list[Figure]:
    import torch

    inputs = [torch.empty(tokens, width, dtype=torch.bfloat16, device="meta") for tokens, width in _SHAPES]
    doubled = [torch.empty(tokens, 2 * width, dtype=torch.bfloat16, device="meta") for tokens, width in _SHAPES]
    silu = table.picker(
        _GPU,
        case=lambda x, scale: _case(x.shape[:-1].numel(), x.shape[-1] // 2),
        key=lambda x, scale: x.shape,
    )
    norm = table.picker(
        _GPU,
        case=lambda result, x, *rest: _case(*x.shape),
        key=lambda result, x, *rest: x.shape,
    )
    return [
        # Taken for the picker that vllm#40850 measured: it has 308 rows and takes about the PR's time; the PR names none.
        *_beside_vllm(
            "silu_mul_fp8",
            silu,
            [(x, x) for x in doubled],
            _vllm_keys(cases, "intermediate", "numtokens"),
            picks,
            vllm,
            4,
        ),
        # This one reads a single shape, and reading it takes a quarter of its time: no goal.
        *_beside_vllm(
            "rms_norm_dynamic_per_token_quant",
            norm,
            [(x, x, x, x, 1e-6, None, None) for x in inputs],
            _vllm_keys(cases, "hidden_size", "num_tokens"),
            picks,
            vllm,
            None,
        ),
    ]


def _beside_vllm(
    op: str,
    pick: Callable[..., Pick],
    arguments: list[tuple[Any, ...]],
    keys: list[dict[str, Any]],
    picks: int,
    vllm: Path | None,
    times_faster: int | None,
) -> list[Figure]:
    ours = _best(pick, arguments, picks)
    what = f"tensors of {op}"
    try:
        pickers = VllmPickers(vllm)
        case_keys = [pickers.case_key(key) for key in keys]
        theirs = _best(pickers.load(op), [(args, case_keys) for args in arguments], picks)
    except MissingPicker as missing:
        return [Figure(what, ours, note="nothing to compare with"), Figure(f"{what}, vLLM", None, note=str(missing))]
    goal = theirs / times_faster if times_faster else None
    return [
        Figure(what, ours, goal=goal, note=f"{ours / theirs:.2f} of vLLM's"),
        Figure(f"{what}, vLLM", theirs),
    ]


def _memory(table: ConfigTable) -> Figure:
    """Growth after every token count, through both ways to pick."""
    table.reload()
    pick = table.picker(_GPU, case=_case, key=lambda tokens, width: (tokens, width))
    pick(1, 4096)
    tracemalloc.start()
    try:
        for tokens in range(1, 1 + _TOKEN_COUNTS):
            pick(tokens, 4096)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return Figure(f"memory after {_TOKEN_COUNTS} token counts", grown / 2**20, "MiB", goal=4)


def _case(tokens: int, width: int) -> Case:
    return Case(hidden_size=width, num_tokens=tokens)


def _vllm_keys(cases: list[Case], width: str, tokens: str) -> list[dict[str, Any]]:
    return [{width: case["hidden_size"], tokens: case["num_tokens"]} for case in cases]


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
