# SPDX-License-Identifier: Apache-2.0
"""``bench random``: kernels against Inductor for shapes drawn at random, most of which no table was made for.

A draw is a kernel with a scheme, a width K and some numbers of tokens.  Inductor compiles it once for a range of tokens, as
in a model whose batch changes; each number of tokens is a row.  Rows are measured as in ``bench kernels``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import NamedTuple

import click

from helion_compile.bench import course
from helion_compile.bench.kernels import compile_subject, row_of
from helion_compile.bench.subjects import SUBJECTS
from helion_compile.cli.options import command, count

__all__ = ["Draw", "draw_shapes", "main"]

SCHEMES = (
    "norm_quant",
    "norm_quant group",
    "norm_quant static",
    "add_norm_quant",
    "add_norm_quant group",
    "add_norm_quant static",
    "layer_norm_quant",
    "layer_norm_quant static",
    "quant",
    "quant group",
    "quant static",
    "activation_quant",
    "activation_quant group",
    "activation_quant static",
    "activation_quant alone",
    "activation_quant alone static",
)
WIDTHS = range(1024, 28672 + 1, 128)
MOST_TOKENS = 8192


class Draw(NamedTuple):
    """A kernel of ``SUBJECTS``, elements of a row, and numbers of tokens in ascending order."""

    name: str
    k: int
    tokens: tuple[int, ...]


def draw_shapes(seed: int, draws: int, sizes: int) -> Iterator[Draw]:
    """The draws of ``seed``: schemes in turn, so that few draws reach all; K evenly, tokens evenly by their logarithm."""
    source = random.Random(seed)
    names = source.sample(SCHEMES, len(SCHEMES))
    for index in range(draws):
        tokens = {round(MOST_TOKENS ** source.random()) for _ in range(sizes)}
        yield Draw(names[index % len(names)], source.choice(WIDTHS), tuple(sorted(tokens)))


@command("bench random", __doc__, examples=["helion-compile bench random --seed 1"])
@click.option("--seed", type=int, default=0, help="of the draws; the same seed draws the same shapes")
@click.option("--draws", type=count, default=32, help="kernels with a width; 32 draw each scheme twice")
@click.option("--sizes", type=count, default=3, help="numbers of tokens a draw")
@course.options
def main(options: SimpleNamespace) -> int:
    rows = course.begin("random", options, products=False)
    for draw in draw_shapes(options.seed, options.draws, options.sizes):
        subject = SUBJECTS[draw.name]
        compiled = compile_subject(subject, dynamic=True)
        for fields in subject.fields(draw.k):
            for m in draw.tokens:
                rows.add(row_of(draw.name, fields, draw.k, m, rows.limits, compiled=compiled))
    return course.end(rows, options)
