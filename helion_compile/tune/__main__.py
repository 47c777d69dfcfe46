# SPDX-License-Identifier: Apache-2.0
"""``python -m helion_compile tune``: measure configs for kernels on this GPU and write them to the config tables."""

from __future__ import annotations

import importlib
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from helion_compile.cli.options import command, count, output_file, several
from helion_compile.configs.row import ConfigError
from helion_compile.definitions import registry
from helion_compile.errors import UnknownKernelError
from helion_compile.tune.cases import TOKENS, TuneError, cases_of, read_model, read_shapes, read_tokens
from helion_compile.tune.comparing import on_this_gpu, sample, summary
from helion_compile.tune.tuner import EFFORTS, Settings, Tuner

__all__ = ["main"]


def _duration(text: str) -> float:
    """Seconds of ``"10m"``; a number alone is one of seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not match:
        raise click.BadParameter(f"{text!r} is not a time like 90s, 10m or 1h, or a number of seconds")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


@command(
    "tune",
    __doc__,
    examples=[
        "helion-compile tune norm_quant --model config.json --budget 10m",
        "helion-compile tune quant --shapes hidden_size=4096 --dry-run",
    ],
)
@click.argument("kernels", nargs=-1, required=True, metavar="KERNEL")
@click.option("--model", multiple=True, type=Path, metavar="CONFIG.json", help="a Hugging Face config")
@click.option("--shapes", multiple=True, metavar="FIELD=VALUE,…", help="exact key fields by hand")
@click.option("--tokens", metavar="1,2,…,8192", help="token counts; by default the kernel's, or powers of two up to 8192")
@click.option("--dtype", type=click.Choice(("bf16", "fp16", "fp32")), default="bf16", help="of the activations")
@click.option("--quick", is_flag=True, help=f"{EFFORTS['quick'].rounds} round of steps instead of 3")
@click.option("--full", is_flag=True, help="until nothing more is gained")
@click.option("--budget", type=_duration, metavar="10m", help="finish within this time: 90, 90s, 10m, 1h")
@click.option("--out", type=Path, metavar="FOLDER", help="write the tables here instead of the user's folder")
@click.option("--journal", type=Path, metavar="FOLDER", help="keep what was measured here, for continuing")
@several("--modules", metavar="MODULE", help="modules that define kernels of yours")
@click.option("--processes", type=count, help="compiling processes; one less than the CPU cores by default")
@click.option("--no-baselines", is_flag=True, help="do not measure what Inductor makes of each reference")
@click.option("--compare-autotune", type=count, metavar="N", help="then search N of the cases with Helion's full autotune too")
@click.option("--autotune-budget", type=_duration, default="60s", metavar="60s", help="of each of these searches")
@click.option("--compare-json", type=output_file, metavar="FILE", help="write the comparisons here")
@click.option("--dry-run", is_flag=True, help="list the cases and measure nothing")
def main(options: SimpleNamespace) -> int:
    """Run the command; 0 when every case has a row, 1 when some have none, 130 after Ctrl-C."""
    if options.quick and options.full:
        raise click.UsageError("--quick and --full are two efforts; give one of them")
    try:
        work = _work(options)
        if options.dry_run:
            print("\n".join(f"{kernel.short_name} {case}" for kernel, case in work))
            return 0
        settings = _settings(options)
        tuner, code = _tune(work, settings)
        return max(code, _compare(tuner, settings, options)) if options.compare_autotune and not settings.rank else code
    except (TuneError, UnknownKernelError, ConfigError) as error:
        print(f"tune: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tune: interrupted; all that was measured is kept, and the same command continues from here", file=sys.stderr)
        return 130


def _work(options: SimpleNamespace) -> list:
    for module in options.modules:
        _import(module)
    layers = [read_model(path) for path in options.model]
    named = [read_shapes(text) for text in options.shapes]
    tokens = read_tokens(options.tokens) if options.tokens else ()
    work = []
    for kernel in (registry.get_kernel(name) for name in dict.fromkeys(options.kernels)):
        shapes = named if layers or named else [dict(fields) for fields in kernel.tuning.usual]
        if not (layers or shapes):
            raise TuneError(
                f"no shapes were given, and {kernel.short_name} names none; name a model's config.json with --model, or "
                f"shapes with --shapes FIELD=VALUE,…"
            )
        counts = tokens or kernel.tuning.tokens or TOKENS
        work += [(kernel, case) for case in cases_of(kernel, layers, shapes, counts, options.dtype)]
    if not work:
        raise TuneError(f"{', '.join(options.kernels)} takes none of the model's shapes; name some by hand with --shapes")
    return work


def _import(module: str) -> None:
    if not all(part.isidentifier() for part in module.split(".")):
        raise TuneError(f"--modules names {module!r}; name a module as an import does, as in --modules my_package.my_kernels")
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there and lacks another
        raise TuneError(
            f"--modules names {module!r}, and {error}; name it as an import does, with its folder in PYTHONPATH"
        ) from None


def _settings(options: SimpleNamespace, environment: Mapping[str, str] = os.environ) -> Settings:
    rank, ranks = int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1))
    local = environment.get("LOCAL_RANK")
    own = {}
    if local is not None:
        # torchrun leaves all GPUs visible to every process; each takes the one that its rank on this host counts to.
        visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        own["CUDA_VISIBLE_DEVICES"] = visible[int(local) % len(visible)] if visible else local
    return Settings(
        effort="quick" if options.quick else "full" if options.full else "normal",
        out=options.out,
        journal=options.journal or _journal_folder(),
        budget=options.budget,
        baselines=0 if options.no_baselines else min(3, max(1, (os.cpu_count() or 1) // 4)),
        processes=options.processes or 0,
        modules=("helion_compile.kernels", *options.modules),
        rank=rank,
        ranks=ranks,
        local_ranks=int(environment.get("LOCAL_WORLD_SIZE", 1)),
        environment=own,
    )


def _check_gpu() -> None:
    """Raise TuneError where nothing can be measured, before processes start."""
    import torch

    if not torch.cuda.is_available():
        raise TuneError(
            f"torch {torch.__version__} finds no GPU here, and configs are measured on one; --dry-run lists the cases without"
        )


def _tune(work: list, settings: Settings) -> tuple[Tuner, int]:
    _check_gpu()
    console = _console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("remaining"),
        TimeRemainingColumn(compact=True),
    )
    started = time.monotonic()
    with Progress(*columns, console=console, disable=settings.rank != 0) as progress:
        task = progress.add_task("cases", total=len(work) / settings.ranks)
        tuner = Tuner(
            work,
            settings,
            report=lambda sentence: progress.console.print(sentence, highlight=False),
            advance=lambda cases: progress.advance(task, cases),
        )
        if tuner.tuned_before:
            progress.console.print(f"{len(tuner.tuned_before)} of {len(work)} cases were tuned before", highlight=False)
        rows = tuner.run()
        if not (tuner.failed or tuner.skipped):
            progress.update(task, completed=len(work) / settings.ranks)
    for (name, case), reason in tuner.failed.items():
        console.print(f"{name} ({case}) has no config: {reason}", highlight=False)
    if tuner.skipped:
        console.print(
            f"{len(tuner.skipped)} cases were not begun for lack of time; the same command continues", highlight=False
        )
    places = sorted({str(tuner._table(kernel).folders[0]) for kernel, _ in work})
    console.print(f"{len(rows)} rows in {', '.join(places)} after {time.monotonic() - started:.0f} s", highlight=False)
    return tuner, 1 if tuner.failed or tuner.skipped else 0


def _compare(tuner: Tuner, settings: Settings, options: SimpleNamespace) -> int:
    console = _console()
    rows = sample(tuner.rows, options.compare_autotune)
    console.print(f"{len(rows)} cases, each searched by Helion's full autotune for up to {options.autotune_budget:.0f} s")
    done = on_this_gpu(
        rows, settings, options.autotune_budget, lambda text: console.print(text, highlight=False), options.compare_json
    )
    console.print(summary(done), highlight=False)
    return 0 if done and all(each.ratio is not None for each in done) else 1


def _console() -> Console:
    return Console(stderr=True, soft_wrap=True)


def _journal_folder() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("helion_compile", appauthor=False)) / "tune"


if __name__ == "__main__":
    raise SystemExit(main())
