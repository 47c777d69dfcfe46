# SPDX-License-Identifier: Apache-2.0
"""What ``backend="helion"`` does with a graph: Inductor, with our pass in front of its own post-grad passes.

Everything that Inductor can do stays: modes, options, caches, CUDA graphs, and a user's own post-grad passes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.fx

from helion_compile import compat
from helion_compile.frontend.capture import make_reader
from helion_compile.frontend.debug import dump_graph
from helion_compile.frontend.history import current_reports, forget_reports
from helion_compile.frontend.inductor import HOOK, chain_passes, explain_gradient_errors, is_training, make_compiler
from helion_compile.frontend.on_graph import GraphReporter
from helion_compile.frontend.options import Options, log
from helion_compile.frontend.verify_rollback import verify_graph
from helion_compile.graph import unwrap_subclasses
from helion_compile.graph.specialize_eps import specialize_eps
from helion_compile.passes.failure_log import first_line, log_failures
from helion_compile.reports import stored

__all__ = ["compile_graph", "reset"]


def compile_graph(
    gm: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    **region: Any,
) -> Callable[..., Any]:
    """Compile a traced graph; :func:`helion_compile.frontend.backend.helion` has the arguments."""
    ours, theirs = Options.split(options)
    compiler = make_compiler(mode, theirs, **region)
    with log_failures(log, "writing what debug() asks for"):
        dump_graph(gm, example_inputs, mode, options)
    checked = None
    if ours.verify:
        try:
            checked = verify_graph(gm, example_inputs, mode, options)
        except Exception as error:
            if ours.strict:
                raise
            told = f"{type(error).__name__}: {first_line(error)}"
            log.warning("verifying a graph failed: %s; the graph is compiled without fusions", told)
            ours = dataclasses.replace(ours, only=())
    reject = checked.reject if checked else {}
    reporter = GraphReporter([], is_training(example_inputs), checked)
    fusion_pass = ours.fusion_pass(on_graph=reporter, reject=reject)
    reporter.quiet = not fusion_pass.fusions
    compiler.config[HOOK] = chain_passes(compiler, fusion_pass, inline=ours.numerics == "default")
    kept, key, read = [], None, None
    with log_failures(log, "preparing the report of a graph"):
        reporter.reports = current_reports()
        # Forward and backward are compiled at times of their own, and may come from the cache one without the other.
        key = None if reporter.training else stored.make_key(gm, example_inputs, compiler.config)
        kept = stored.load_reports(key) if key else []
        read = make_reader(gm, example_inputs, mode, options, reject=reject) if key and not kept else None
    with log_failures(log, "making constants of a model's eps"):
        specialize_eps(gm)
    unwrapped = None
    if unwrap_subclasses.is_needed():
        with log_failures(log, "taking quantised weights apart"):
            unwrapped = unwrap_subclasses.unwrap_weights(gm, example_inputs)
    if unwrapped is not None:
        gm, example_inputs, parts_of = unwrapped
        known = compat.inductor_config.unsafe_marked_cacheable_functions
        compiler.config["unsafe_marked_cacheable_functions"] = known | unwrap_subclasses.CACHEABLE
    with explain_gradient_errors(gm, example_inputs):
        compiled = compiler(gm, example_inputs)
    with log_failures(log, "keeping the report of a graph"):
        if not fusion_pass.records:
            reporter.report_cached(kept, read)
        elif key and reporter.found:
            stored.keep_reports(key, reporter.found)
    return compiled if unwrapped is None else lambda *args: compiled(*parts_of(*args))


def reset() -> None:
    """Called by torch.compiler.reset(): drop reports, and recorded CUDA graphs, as the inductor backend does."""
    forget_reports()
    make_compiler(None, {}).reset()
