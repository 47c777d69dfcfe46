# SPDX-License-Identifier: Apache-2.0
"""``bench plot``: the pictures of rows that were measured before, from files of ``bench kernels`` and from config tables.

Needs no GPU.  The rows of a config table have a time and Inductor's or the library's; their bytes and operations follow from
the case.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from helion_compile.bench import headline, plots
from helion_compile.bench.work import Limits, work_of_case
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


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m helion_compile bench plot", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument(
        "--out", type=plots.file_prefix, default="bench", metavar="PREFIX", help="of the files that are written"
    )
    parser.add_argument("--title", default="", help="the GPU, say")
    parser.add_argument("--bandwidth", type=float, metavar="TB/s", help="of a copy, for a roofline of config tables")
    parser.add_argument("--headline", action="store_true", help="bars of `bench chains` and `bench vllm`, light and dark")
    options = parser.parse_args(argv)
    plots.require()
    if options.headline:
        try:
            panels = headline.read(options.files)
        except ValueError as error:
            parser.error(str(error))
        for file in headline.draw(panels, options.out, options.title):
            print(file)
        return 0
    rows: list[dict[str, Any]] = []
    limits = None if options.bandwidth is None else Limits(options.bandwidth * 1e12)
    for file in options.files:
        try:
            more, found = read(file)
        except ValueError as error:
            parser.error(str(error))
        rows += more
        limits = limits or found
    drawn = plots.draw(rows, limits, options.out, options.title)
    if not drawn:
        parser.error(f"there is nothing to draw: no row of {', '.join(map(str, options.files))} was measured")
    for file in drawn:
        print(file)
    return 0
