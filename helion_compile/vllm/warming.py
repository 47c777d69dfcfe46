# SPDX-License-Identifier: Apache-2.0
"""Everything compiled before the first request, when vLLM warms itself up.

A graph of vLLM serves every number of tokens, and vLLM itself runs only some of them before it serves: those that it
captures, and the largest.  Dry runs of the model with a few small numbers of tokens tell which kernels it calls and how
their arguments depend on the number (``model_calls.py``); then the kernels alone are compiled for every config and variant
that any number up to the largest can ask for.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import torch

from helion_compile.frontend.warmup import warm_up
from helion_compile.vllm.agreement import find_disagreement
from helion_compile.vllm.identity import identity
from helion_compile.vllm.log import log, off
from helion_compile.vllm.model_calls import Call, ModelCalls, find_calls
from helion_compile.vllm.options import OPTIONS

__all__ = ["choose_dry_sizes", "warm"]

# Coprime, so that sizes which vLLM rounds up do not lie in a line.  The others are for a server of few tokens or sequences.
_DRY = ((5, 7, 11), (2, 3, 5), (1, 2, 3))
_OFF = "the warm-up is off, first calls of some sizes compile while serving"


def warm(worker: Any) -> None:
    """Compile what the worker's model will need; vLLM goes on without where that fails."""
    started = time.perf_counter()
    try:
        config = worker.vllm_config
        sizes = choose_dry_sizes(config)
        if disagreement := _ask_ranks(config, sizes):
            off(_OFF, disagreement)
            return
        with _without_expert_load(worker.model_runner):
            calls = find_calls(_dummy_run(worker.model_runner), sizes)
        dry = time.perf_counter() - started
        if not (calls.known or calls.unknown):
            why = _explain_no_graphs(config, worker.model_runner)
            log.info("helion_compile: a step of the model calls no kernel of ours%s", why)
            return
        log.info("helion_compile: a step of the model calls %s", _format_counts(calls.count_kernels()))
        _compile(calls, config.scheduler_config.max_num_batched_tokens, dry, started)
        if getattr(config.compilation_config, "compile_mm_encoder", False):
            log.info("helion_compile: compiled encoders of images and sound are not warmed up, their first calls compile")
    except Exception as error:
        off(_OFF, f"{type(error).__name__}: {error}")


def choose_dry_sizes(config: Any) -> tuple[int, ...]:
    """Three numbers of tokens for dry runs.

    Multiples of the ranks that share a step's tokens, since vLLM rounds other numbers up; and no more than there may be
    sequences, since a draft model sees one token of each.

    Raises:
        ValueError: a step has too few tokens for three such numbers.
    """
    parallel, scheduler = config.parallel_config, config.scheduler_config
    unit = parallel.tensor_parallel_size * getattr(parallel, "prefill_context_parallel_size", 1)
    candidates = [tuple(unit * factor for factor in factors) for factors in _DRY]
    # Of the largest number vLLM has made a step already: calls that have their plans would not be seen.
    allowed = [sizes for sizes in candidates if sizes[-1] < scheduler.max_num_batched_tokens]
    if not allowed:
        raise ValueError(
            f"a step has up to {scheduler.max_num_batched_tokens} tokens (max_num_batched_tokens); dry runs have "
            f"{_format_sizes(candidates[-1])}"
        )
    return next((sizes for sizes in allowed if sizes[-1] <= scheduler.max_num_seqs), allowed[-1])


def _compile(calls: ModelCalls, largest: int, dry: float, started: float) -> None:
    """Compile the calls that are known, and say of which numbers of tokens that is true."""
    origins: Counter[str] = Counter()
    done = []
    by_rows: dict[Fraction | None, list[Call]] = {}
    for call in calls.known:
        by_rows.setdefault(call.rows_per_token, []).append(call)
    for rows_per_token, group in by_rows.items():
        rows = 1 if rows_per_token is None else math.ceil(largest * rows_per_token)
        done.append(str(_compile_group(group, rows, rows_per_token or Fraction(1), origins)))
    if calls.known:
        torch.cuda.empty_cache()
        log.info(
            "helion_compile: configs for up to %d tokens: %s; %s; dry runs %.1f s, %.1f s in all",
            largest,
            _format_counts(origins),
            ", ".join(done),
            dry,
            time.perf_counter() - started,
        )
    if fixed := by_rows.get(None):
        log.info(
            "helion_compile: warmed up for the sizes of the dry runs alone, which were the same in all of them: %s",
            _format_counts(Counter({call.kernel.short_name: calls.known[call] for call in fixed})),
        )
    if calls.unknown:
        reasons = [f"{count} x {kernel.short_name} ({reason})" for (kernel, reason), count in calls.unknown.items()]
        off("not warmed up, first calls of some sizes compile while serving", ", ".join(reasons))


def _compile_group(group: Iterable[Call], rows: int, rows_per_token: Fraction, origins: Counter[str]) -> Any:
    """Compile calls whose arguments have up to so many rows: configs and variants depend on these, not on the tokens."""

    def run(count: int) -> None:
        for call in group:
            args = call.args(count / rows_per_token)
            origins[call.kernel.pick(args).origin] += 1
            call.kernel(*args)

    with torch.inference_mode():
        return warm_up(run, [rows], lambda count: (count,), between=True)


def _ask_ranks(config: Any, sizes: tuple[int, ...]) -> str | None:
    """Why the ranks that make a step together cannot make these dry runs; None where they can."""
    if config.parallel_config.world_size_across_dp == 1:
        return None
    from helion_compile.compat import get_world_group

    return find_disagreement(get_world_group(), f"{identity({OPTIONS: os.environ.get(OPTIONS)})} {sizes}")


def _dummy_run(runner: Any) -> Callable[[int], Any]:
    from helion_compile.compat import CUDAGraphMode

    return lambda tokens: runner._dummy_run(tokens, cudagraph_runtime_mode=CUDAGraphMode.NONE, skip_eplb=True)


def _without_expert_load(runner: Any) -> contextlib.AbstractContextManager[Any]:
    """vLLM balances experts by the tokens that they were given, and dry runs are nobody's."""
    suppress = getattr(getattr(runner, "eplb", None), "suppress", None)
    return suppress() if suppress else contextlib.nullcontext()


def _explain_no_graphs(config: Any, runner: Any) -> str:
    """The setting by which vLLM compiles nothing, as the end of a sentence."""
    from helion_compile.compat import CompilationMode, vllm_envs

    mode = config.compilation_config.mode
    if mode == CompilationMode.VLLM_COMPILE:
        modules = runner.get_model().modules() if hasattr(runner, "get_model") else ()
        undecorated = modules and all(getattr(module, "do_not_compile", True) for module in modules)
        return ": vLLM compiles no part of this architecture" if undecorated else ""
    if getattr(vllm_envs, "VLLM_USE_BREAKABLE_CUDAGRAPH", False):
        return (
            ": with VLLM_USE_BREAKABLE_CUDAGRAPH=1, which vLLM sets for some architectures, it compiles nothing; with 0 it "
            "compiles the model if it can"
        )
    if config.model_config is not None and config.model_config.enforce_eager:
        return ": with enforce_eager vLLM compiles nothing"
    return f": with the compilation mode {getattr(mode, 'name', mode)} vLLM runs no passes"


def _format_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in counts.most_common())


def _format_sizes(sizes: Iterable[int]) -> str:
    return ", ".join(map(str, sizes))
