"""What ``backend="helion"`` does with a graph: Inductor, with our pass in front of its own post-grad passes.

Everything that Inductor can do stays: modes, options, caches, CUDA graphs, and a user's own post-grad passes.
"""

from __future__ import annotations

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
from helion_compile.frontend.options import Options
from helion_compile.frontend.verify_rollback import verify_graph
from helion_compile.graph import unwrap_subclasses
from helion_compile.graph.specialize_eps import specialize_eps
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
    dump_graph(gm, example_inputs, mode, options)
    checked = verify_graph(gm, example_inputs, mode, options) if ours.verify else None
    reject = checked.reject if checked else {}
    reporter = GraphReporter(current_reports(), is_training(example_inputs), checked)
    fusion_pass = ours.fusion_pass(on_graph=reporter, reject=reject)
    compiler.config[HOOK] = chain_passes(compiler, fusion_pass)
    # Forward and backward are compiled at times of their own, and may come from the cache one without the other.
    key = None if reporter.training else stored.make_key(gm, example_inputs, compiler.config)
    kept = stored.load_reports(key) if key else []
    read = make_reader(gm, example_inputs, mode, options, reject=reject) if key and not kept else None
    specialize_eps(gm)
    unwrapped = unwrap_subclasses.unwrap_weights(gm, example_inputs) if unwrap_subclasses.is_needed() else None
    if unwrapped is not None:
        gm, example_inputs, parts_of = unwrapped
        known = compat.inductor_config.unsafe_marked_cacheable_functions
        compiler.config["unsafe_marked_cacheable_functions"] = known | unwrap_subclasses.CACHEABLE
    with explain_gradient_errors(gm, example_inputs):
        compiled = compiler(gm, example_inputs)
    if fusion_pass.records and key:
        stored.keep_reports(key, reporter.found)
    elif not fusion_pass.records:
        reporter.report_cached(kept, read)
    return compiled if unwrapped is None else lambda *args: compiled(*parts_of(*args))


def reset() -> None:
    """Called by torch.compiler.reset(): drop reports, and recorded CUDA graphs, as the inductor backend does."""
    forget_reports()
    make_compiler(None, {}).reset()
