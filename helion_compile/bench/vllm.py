# SPDX-License-Identifier: Apache-2.0
"""``bench vllm``: a Qwen3 with fp8 linears in vLLM, as it comes and with our pass, in turn, each in a process of its own.

Weights are random and the same in every process.  A scheme is ``token`` (per-token activations, per-channel weights),
``tensor`` (static, per tensor) or ``block`` (128 x 128 weights, 1 x 128 activations).  Work is ``BATCHxPROMPT+NEW``: so
many prompts of so many tokens, and so many new tokens for each.  Start-up is cold, with empty caches; with ``--warm`` a
second process of each kind starts from what the first left.  Logits are compared with those of vLLM's default, and so are
those of ``enforce_eager``, to know how far two ways of computing the same model are apart.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from helion_compile.bench.timing import copy_bandwidth, machine, require_gpu
from helion_compile.bench.vllm_run import work_of
from helion_compile.bench.vllm_step import limits, roles_table
from helion_compile.cli.options import command, count, output_file, several

__all__ = ["main"]

VARIANTS = ("default", "ours", "slot", "eager")
WORK = ["1x128+64", "16x128+64", "64x128+64", "32x1024+1"]


def _work(text: str) -> str:
    if not work_of(text):
        raise click.BadParameter(f"{text!r} is no work such as {WORK[0]}: prompts, tokens of each, new tokens of each")
    return text


def _new_folder(text: str) -> Path:
    folder = Path(text)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise click.BadParameter(f"{folder} is there and not empty, and a cold start needs empty caches; name another")
    return folder


@command("bench vllm", __doc__, examples=["helion-compile bench vllm --schemes token --rounds 2"])
@several("--schemes", type=click.Choice(("token", "tensor", "block")), default=["token", "tensor", "block"])
@several(
    "--variants",
    type=click.Choice(VARIANTS),
    default=["default", "ours"],
    help="ours: by the plug-in; slot: by the custom slot; eager: enforce_eager, for its logits",
)
@click.option("--rounds", type=count, default=2, help="how often the variants are run in turn")
@several("--work", type=_work, default=WORK, metavar="BATCHxPROMPT+NEW")
@click.option("--repeats", type=count, default=5)
@click.option("--layers", type=count, default=36)
@click.option("--hidden", type=count, default=4096)
@click.option("--intermediate", type=count, default=12288)
@click.option("--warm", is_flag=True, help="time a second start of each variant from its caches too")
@click.option("--logits", is_flag=True, help="compare logits; adds one process a scheme")
@click.option("--profile", type=count, metavar="BATCH", help="time the kernels of one decode step of that batch")
@click.option("--options", type=json.loads, default="{}", help='of our pass, such as \'{"disable": ["quant"]}\'')
@click.option("--json", type=output_file, metavar="FILE", help="write the runs to this file, each when it is there")
@click.option("--keep", type=_new_folder, metavar="FOLDER", help="keep each process's output in this new folder")
def main(options: SimpleNamespace) -> int:
    require_gpu("vllm")
    console = Console(soft_wrap=True)
    console.print(machine())
    results: list[dict[str, Any]] = []

    def keep(row: dict[str, Any]) -> None:
        results.append(_plain(row))
        if options.json:
            options.json.write_text(json.dumps({"machine": machine(), "runs": results}, indent=1))

    with tempfile.TemporaryDirectory(prefix="bench-vllm-") as folder:
        for scheme in options.schemes:
            rows = _measure(options, scheme, options.keep or Path(folder), console, keep)
            _tell(console, scheme, rows)
            if found := {row["variant"]: row["kernels"] for row in rows if row["kernels"]}:
                title = f"{scheme}: one decode step of {options.profile}"
                console.print(roles_table(title, found, limits(vars(options), options.profile, copy_bandwidth())))
    return 0


def _measure(
    options: SimpleNamespace,
    scheme: str,
    folder: Path,
    console: Console,
    keep: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(variant, number, "cold") for number in range(options.rounds) for variant in options.variants]
    if options.warm:
        jobs += [(variant, 0, "warm") for variant in options.variants]
    if options.logits and "eager" not in options.variants:
        jobs.append(("eager", 0, "cold"))
    rows = []
    for variant, number, start in jobs:
        spec = {name: getattr(options, name) for name in ("layers", "hidden", "intermediate", "repeats", "logits", "profile")}
        spec |= {"scheme": scheme, "variant": variant, "options": options.options}
        spec["work"] = [] if start == "warm" or (variant == "eager" and "eager" not in options.variants) else options.work
        spec["profile"] = options.profile if number == 0 and spec["work"] else None
        row = _one(spec, folder / f"{scheme}-{variant}-{number}-{start}", folder / f"cache-{scheme}-{variant}-{number}")
        row |= {"scheme": scheme, "variant": variant, "start": start}
        rows.append(row)
        keep(row)
        times = "  ".join(f"{work} {ms:.1f} ms" for work, ms in row["ms"].items())
        console.print(f"{scheme} {variant} ({start}): init {row['init_s']:.1f} s  {times}")
        for line in row["said"]:
            console.print(f"    {line}", markup=False, highlight=False)
    return rows


def _one(spec: dict[str, Any], place: Path, cache: Path) -> dict[str, Any]:
    """Run one process, and read what it measured."""
    spec_file, result_file, logits_file = (place.with_suffix(suffix) for suffix in (".spec.json", ".json", ".pt"))
    # A warm start finds what a cold one left by the model's path too.
    files = {"model": str(cache / "model"), "result": str(result_file), "logits_file": str(logits_file)}
    spec_file.write_text(json.dumps(spec | files))
    folders = {
        "VLLM_CACHE_ROOT": "vllm",
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
        "TRITON_CACHE_DIR": "triton",
        "HELION_COMPILE_CACHE_DIR": "helion",
    }
    environment = os.environ | {name: str(cache / sub) for name, sub in folders.items()}
    environment.pop("HELION_COMPILE_VLLM", None)
    if spec["variant"] == "ours":
        environment |= {"HELION_COMPILE_VLLM": "1", "HELION_COMPILE_VLLM_OPTIONS": json.dumps(spec["options"])}
    command = [sys.executable, "-m", "helion_compile.bench.vllm_run", str(spec_file)]
    with place.with_suffix(".log").open("w") as log:
        code = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode
    text = place.with_suffix(".log").read_text(errors="replace")
    if code:
        raise SystemExit(f"bench vllm: {spec['scheme']} {spec['variant']} ended with {code}:\n{text[-6000:]}")
    row = json.loads(result_file.read_text())
    row["said"] = [line.partition("helion_compile: ")[2] for line in text.splitlines() if "helion_compile: " in line]
    row["logits"] = torch.load(logits_file) if logits_file.exists() else None
    return row


def _tell(console: Console, scheme: str, rows: list[dict[str, Any]]) -> None:
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    table = Table(f"{scheme}", *variants, *(f"default / {variant}" for variant in variants if variant != "default"))
    work = list(dict.fromkeys(work for row in rows for work in row["ms"]))
    lines = [(f"{name}, ms", {v: [r["ms"][name] for r in rows if r["variant"] == v and name in r["ms"]] for v in variants})
             for name in work]  # fmt: skip
    for start in ("cold", "warm"):
        times = {v: [r["init_s"] for r in rows if r["variant"] == v and r["start"] == start] for v in variants}
        lines += [(f"init, {start}, s", times)] if any(times.values()) else []
    for name, times in lines:
        medians = {variant: statistics.median(found) for variant, found in times.items() if found}
        shown = [f"{medians[v]:.1f} ({min(times[v]):.1f}-{max(times[v]):.1f})" if v in medians else "" for v in variants]
        ratios = [
            f"{medians['default'] / medians[v]:.3f}" if {"default", v} <= medians.keys() else ""
            for v in variants
            if v != "default"
        ]
        table.add_row(name, *shown, *ratios)
    console.print(table)
    for row in rows:
        if row["compiled_while_serving"]:
            console.print(f"{row['variant']}: {row['compiled_while_serving']} compilations while serving")
    _tell_logits(console, rows)
    for row in rows:
        if row["kernels"]:
            _tell_kernels(console, row)


def _tell_logits(console: Console, rows: list[dict[str, Any]]) -> None:
    logits = {row["variant"]: row["logits"] for row in rows if row["logits"] is not None}
    base: Any = logits.get("default")
    distances = {}
    for variant, found in logits.items() if base is not None else ():
        if variant != "default":
            distance = distances[variant] = ((found - base).norm() / base.norm()).item()
            same = (found.argmax(-1) == base.argmax(-1)).float().mean().item()
            console.print(
                f"logits of {variant}: {distance:.5f} of the norm from default's; {same:.1%} of the first tokens equal"
            )
    for variant in distances.keys() - {"eager"} if "eager" in distances else ():
        nearer = distances[variant] <= distances["eager"]
        console.print(f"{variant} is {'no farther' if nearer else 'FARTHER'} from vLLM's default than enforce_eager is")


def _tell_kernels(console: Console, row: dict[str, Any]) -> None:
    total = sum(us for _, _, us in row["kernels"])
    table = Table(
        "kernel", "calls a step", "µs a step", "%", title=f"{row['variant']}: one decode step, {total:.0f} µs in kernels"
    )
    for name, calls, us in row["kernels"][:30]:
        table.add_row(name[:100], f"{calls:.1f}", f"{us:.1f}", f"{us / total:.1%}")
    console.print(table)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "logits"}
