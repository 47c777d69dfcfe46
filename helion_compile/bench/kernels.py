# SPDX-License-Identifier: Apache-2.0
"""``bench kernels``: each kernel against what Inductor makes of the same function, with a check of the results.

A row is the device time of a call in a CUDA graph, with inputs that are not in the L2.  ``--vllm`` adds vLLM's CUDA operators
where there is one, for GEMMs its CUTLASS.  The bytes and operations of a row are those of the arguments, the results and
the kernel's reference; the limit is what a copy, and for GEMMs a large GEMM of the library, reach on this GPU.
"""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import click
import torch

from helion_compile import compat
from helion_compile.bench import course
from helion_compile.bench.rows import Baseline, distance, measure, steps_apart
from helion_compile.bench.subjects import SUBJECTS, Subject
from helion_compile.bench.timing import rotating
from helion_compile.bench.vllm_library import OPERATORS
from helion_compile.bench.work import Limits, work_of
from helion_compile.cli.options import command, count, several

__all__ = ["compile_subject", "main", "row_of"]

WIDTHS = (2048, 4096, 5120, 8192, 12288)
TOKENS = tuple(2**power for power in range(14))


def row_of(
    name: str,
    fields: Mapping[str, Any],
    k: int,
    m: int,
    limits: Limits,
    *,
    vllm: bool = False,
    device: str = "cuda",
    compiled: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """The row of a subject for M tokens.

    Args:
        compiled: what Inductor made of the subject before; by default it compiles for this very case.
    """
    subject = SUBJECTS[name]
    case = subject.case(fields, m)
    kernel = subject.kernel
    first = subject.arguments(case, torch.device(device))
    size = sum(argument.nbytes for argument in first if isinstance(argument, torch.Tensor))
    sets = rotating(lambda: subject.arguments(case, torch.device(device)), size)
    pick = kernel.pick(first)
    of = {"kernel": name, "m": m, "k": k} | ({"n": fields["n"]} if "n" in fields else {})
    of |= {"config": dict(pick.config or {}), "config_from": pick.origin}
    return measure(of, kernel, sets, _baselines(name, subject, vllm, compiled), work_of(kernel, first), limits)


def compile_subject(subject: Subject, dynamic: bool) -> Callable[..., Any]:
    """What Inductor makes of what a model writes instead of the kernel."""
    compat.dynamo.reset()
    return torch.compile(subject.written or subject.kernel.reference, dynamic=dynamic, fullgraph=True)


def _baselines(name: str, subject: Subject, vllm: bool, compiled: Callable[..., Any] | None) -> Iterator[Baseline]:
    product = subject.library is not None
    check = distance(0.01) if product else steps_apart  # tensor cores keep some 13 bits of a sum
    if subject.library:
        yield Baseline("library", subject.library, check=check)
    else:
        eager = (subject.written or subject.kernel.reference) if subject.check_eager else None
        yield Baseline("inductor", compiled or compile_subject(subject, dynamic=False), subject.prepare, check, eager)
    if vllm and name in OPERATORS:
        run, prepare = OPERATORS[name]
        # Theirs rounds in other places than ours: how far they are apart is told, not judged.
        yield Baseline("cutlass" if product else "vllm", run, prepare, lambda ours, theirs: (check(ours, theirs)[0], None))


@command("bench kernels", __doc__, examples=["helion-compile bench kernels --kernels 'quant*' --k 4096 --m 1 16"])
@several("--kernels", metavar="NAME", help=f"some of them, such as 'quant*': {', '.join(SUBJECTS)}")
@several("--k", type=count, default=[4096], help="elements of a row, or what a product sums over")
@several("--n", type=count, help="of products: only these numbers of features")
@several("--m", type=count, default=[1, 16, 256, 2048, 8192], help="tokens")
@click.option("--full", is_flag=True, help=f"K of {WIDTHS} and M of 1, 2, 4, ... 8192")
@course.options
def main(options: SimpleNamespace) -> int:
    names = [name for name in SUBJECTS if any(fnmatch.fnmatch(name, given) for given in options.kernels or ["*"])]
    if not names:
        raise click.UsageError(f"no kernel is called {' or '.join(options.kernels)}; there are {', '.join(SUBJECTS)}")
    widths, tokens = (WIDTHS, TOKENS) if options.full else (options.k, options.m)
    found = {(name, k): _cases(name, k, options.n) for name in names for k in widths}
    if not any(found.values()):
        raise click.UsageError(
            f"{' and '.join(names)} cannot be measured with K of {widths}{f' and N of {options.n}' * bool(options.n)}"
        )
    rows = course.begin("kernels", options, products="scaled_mm" in names)
    for (name, k), kinds in found.items():
        if not kinds:
            print(f"{name} has no row: there is none with K={k}", flush=True)
        for fields, m in itertools.product(kinds, tokens):
            rows.add(row_of(name, fields, k, m, rows.limits, vllm=options.vllm is not None))
    return course.end(rows, options)


def _cases(name: str, k: int, features: list[int] | None) -> list[Mapping[str, Any]]:
    """The cases of a subject, of GEMMs those with so many features."""
    return [fields for fields in SUBJECTS[name].fields(k) if not features or fields.get("n", features[0]) in features]
