# SPDX-License-Identifier: Apache-2.0
"""``bench plot``: the pictures of rows that were measured before, from files of ``bench kernels`` and from config tables.

Needs no GPU.  The rows of a config table have a time and Inductor's or the library's; their bytes and operations follow from
the case.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from helion_compile.bench import headline, plots
from helion_compile.bench.work import Limits, work_of_case
from helion_compile.cli.options import command
from helion_compile.configs.files import kernel_of_folder
from helion_compile.configs.row import ConfigError, Row
from helion_compile.definitions import registry
from helion_compile.errors import UnknownKernelError

__all__ = ["main", "read"]


def read(file: Path) -> tuple[list[dict[str, Any]], Limits | None]:
    """The rows of a file, and the limits of the GPU that it names.

    Raises:
        ValueError: it is neither kind of file, in one sentence.
    """
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    if isinstance(content, list):
        return _of_table(file, content), None
    try:
        limits, rows = Limits(**content["limits"]), list(content["rows"])
        plotted = all(row["us"] > 0 and row["m"] > 0 and row["kernel"] and row["baselines"].items() for row in rows)
    except (KeyError, TypeError, AttributeError):
        plotted = False
    if not plotted:
        raise ValueError(f"{file} holds neither the rows of a benchmark nor a config table")
    return rows, limits


def _of_table(file: Path, content: list[Any]) -> list[dict[str, Any]]:
    """Those that were measured; the table's folder is named as its kernel is."""
    try:
        kernel = registry.get_kernel(kernel_of_folder(file.resolve().parent))
        rows = [Row.from_json(fields) for fields in content]
    except (UnknownKernelError, ConfigError) as error:
        raise ValueError(f"{file} cannot be read as a table of configs: {error}") from None
    found = []
    for row in rows:
        if row.us is None:
            continue
        fields = row.case.fields
        work = work_of_case(kernel, row.case)
        kinds = [
            f"{name} {value}" if value is not True else name for name, value in fields.items() if name in _KINDS and value
        ]
        width = {"k": fields["hidden_size"]} if "hidden_size" in fields else {n: fields[n] for n in ("k", "n") if n in fields}
        of = {"kernel": ", ".join([kernel.short_name, *kinds]), "m": fields["num_tokens"], **width}
        of |= {"bytes": work.bytes, "operations": work.operations, "products": work.products}
        # Where a fallback won, "kernel" is what the kernel itself took.
        found.append({**of, "us": row.us, "baselines": {name: us for name, us in row.baselines.items() if name != "kernel"}})
    return found


_KINDS = ("group", "kind", "library", "residual", "static")


@command("bench plot", __doc__, examples=["helion-compile bench plot rows.json --out pictures/h200"])
@click.argument("files", nargs=-1, required=True, type=Path, metavar="FILE")
@click.option("--out", type=plots.file_prefix, default="bench", metavar="PREFIX", help="of the files that are written")
@click.option("--title", default="", help="the GPU, say")
@click.option("--bandwidth", type=float, metavar="TB/s", help="of a copy, for a roofline of config tables")
@click.option("--headline", is_flag=True, help="bars of `bench chains` and `bench vllm`, light and dark")
def main(options: SimpleNamespace) -> int:
    plots.require()
    if options.headline:
        try:
            panels = headline.read(options.files)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        for file in headline.draw(panels, options.out, options.title):
            print(file)
        return 0
    rows: list[dict[str, Any]] = []
    limits = None if options.bandwidth is None else Limits(options.bandwidth * 1e12)
    for file in options.files:
        try:
            more, found = read(file)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        rows += more
        limits = limits or found
    drawn = plots.draw(rows, limits, options.out, options.title)
    if not drawn:
        raise click.UsageError(f"there is nothing to draw: no row of {', '.join(map(str, options.files))} was measured")
    for file in drawn:
        print(file)
    return 0
