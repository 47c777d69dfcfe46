"""``torch.compile(model, backend="helion")``: Inductor with our pass in front of its own post-grad passes.

Everything that Inductor can do stays: modes, options, caches, CUDA graphs, and a user's own post-grad passes.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx
from torch._inductor.custom_graph_pass import CustomGraphPass

from helion_compile.definitions.fingerprint import digest_packages
from helion_compile.errors import GradientError
from helion_compile.frontend.history import forget, reports_of_this_call
from helion_compile.frontend.reporting import Telling
from helion_compile.fusions import NUMERICS, fusions, identity
from helion_compile.graph import unwrap_subclasses
from helion_compile.graph.specialize_eps import fix_eps
from helion_compile.passes.account.records import GraphRecord
from helion_compile.passes.rewrite.fusion_pass import FusionPass
from helion_compile.reports import stored

__all__ = ["Options", "helion"]

log = logging.getLogger("helion_compile")


@dataclass(frozen=True)
class Options:
    """Our entries of ``torch.compile(options=...)``; the others go to Inductor.

    Attributes:
        numerics: "default" keeps intermediate values of a fused chain in fp32, as Inductor does; "exact" keeps every
            rounding step of the eager model.
        disable: names of fusions to leave out.
        only: names of the fusions to use, None for all.
        strict: raise where the pass fails, instead of leaving the graph as it was.
        verify: before a graph is compiled, run each fused site against what it replaces, on the values of that first call;
            where the contract of ``docs/numerics.md`` is broken, leave the original and warn.
    """

    numerics: str = "default"
    disable: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    strict: bool = False
    verify: bool = False

    @classmethod
    def split(cls, options: Mapping[str, Any] | None) -> tuple[Options, dict[str, Any]]:
        """Ours and Inductor's share of ``options``.

        Raises:
            ValueError, TypeError: one of ours has a value it cannot have.
        """
        if not isinstance(options, Mapping | None):
            raise TypeError(f"options is a {type(options).__name__}; give a dict, such as {{'numerics': 'exact'}}.")
        theirs = dict(options or {})
        ours = {name: theirs.pop(name) for name in cls.__dataclass_fields__ if name in theirs}
        for name in ("disable", "only"):
            if isinstance(ours.get(name), str) or not isinstance(ours.get(name, ()), Sequence | None):
                raise TypeError(f"options[{name!r}] is {ours[name]!r}; give a list of fusion names, such as ['quant'].")
            if name in ours and ours[name] is None:
                del ours[name]  # as if not given
            elif name in ours:
                ours[name] = tuple(ours[name])
        result = cls(**ours)
        if result.numerics not in NUMERICS:
            raise ValueError(f"options['numerics'] is {result.numerics!r}; it can be {' or '.join(map(repr, NUMERICS))}.")
        for name in ("strict", "verify"):
            if not isinstance(value := getattr(result, name), bool):
                raise TypeError(f"options[{name!r}] is {value!r}; it is True or False.")
        return result, theirs

    def fusion_pass(
        self,
        log: logging.Logger = log,
        on_record: Callable[[GraphRecord], None] | None = None,
        **more: Any,
    ) -> FusionPass:
        """The pass these options ask for; it tells ``log`` what it did.  ``more`` goes to :class:`FusionPass`.

        Raises:
            ValueError: ``disable`` or ``only`` has a name that no fusion has.
        """
        return FusionPass(
            fusions(self.numerics),
            strict=self.strict,
            disable=self.disable,
            only=self.only,
            identity=f"{identity(self.numerics)} {digest_packages()}",
            on_record=on_record,
            log=log,
            **{"keep_code": True, **more},  # a report shows it
        )


def helion(
    gm: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    **match: Any,
) -> Callable[..., Any]:
    """Compile a traced graph; what ``torch.compile(model, backend="helion")`` calls.

    Args:
        mode: one of torch.compile's modes, such as "reduce-overhead".
        options: entries of :class:`Options`, and any of Inductor's own.
        **region: ``name=``, in versions of torch whose ``torch.compile`` takes one.

    Raises:
        ValueError, TypeError: an option that neither we nor Inductor know, or one with a value it cannot have.
        RuntimeError: an unknown mode, or a value that Inductor does not take.
        GradientError: the graph is compiled for training, and one of its operations has no derivative.
    """
    # They trace the graph once more with this backend's own pass.
    from helion_compile.frontend import capture, debug
    from helion_compile.frontend.verify_rollback import verified

    ours, theirs = Options.split(options)
    compiler = inductor(mode, theirs, **match)
    debug.dump(gm, example_inputs, mode, options)
    checked = verified(gm, example_inputs, mode, options) if ours.verify else None
    reject = checked.reject if checked else {}
    told = Telling(reports_of_this_call(), training(example_inputs), checked)
    fusion_pass = ours.fusion_pass(on_graph=told, reject=reject)
    compiler.config[HOOK] = in_turn(compiler, fusion_pass)
    # Forward and backward are compiled at times of their own, and may come from the cache one without the other.
    key = None if told.training else stored.key_of(gm, example_inputs, compiler.config)
    kept = stored.find(key) if key else []
    read = capture.reader(gm, example_inputs, mode, options, reject=reject) if key and not kept else None
    fix_eps(gm)
    apart = unwrap_subclasses.take_apart(gm, example_inputs) if unwrap_subclasses.needed() else None
    if apart is not None:
        gm, example_inputs, parts_of = apart
        known = torch._inductor.config.unsafe_marked_cacheable_functions
        compiler.config["unsafe_marked_cacheable_functions"] = known | unwrap_subclasses.CACHEABLE
    with told_how_to_go_on(gm, example_inputs):
        compiled = compiler(gm, example_inputs)
    if fusion_pass.records and key:
        stored.keep(key, told.found)
    elif not fusion_pass.records:
        told.cached(kept, read)
    return compiled if apart is None else lambda *args: compiled(*parts_of(*args))


def training(inputs: Sequence[Any]) -> bool:
    """Whether a graph with these inputs is compiled as a forward/backward pair."""
    return torch.is_grad_enabled() and any(isinstance(each, torch.Tensor) and each.requires_grad for each in inputs)


@contextlib.contextmanager
def told_how_to_go_on(gm: torch.fx.GraphModule, inputs: Sequence[Any]) -> Iterator[None]:
    """Within it, an operation without derivative is an error that says why one is asked for.

    Products in fp8 have none, and a model whose norms have weights asks for it unless grad mode is off.
    """
    try:
        yield
    except RuntimeError as error:
        if not (training(inputs) and str(error).startswith("derivative for ")):
            raise
        placeholders = [node.name for node in gm.graph.nodes if node.op == "placeholder"]
        needing = [n for n, each in zip(placeholders, inputs, strict=True) if getattr(each, "requires_grad", False)]
        raise GradientError(
            f"{error}, and this graph is compiled for training, since grad mode is on and {len(needing)} of its inputs "
            f"require grad ({needing[0]} first). Call the model under torch.no_grad() or torch.inference_mode(), or call "
            f"model.requires_grad_(False) before."
        ) from error


HOOK = "post_grad_custom_pre_pass"


def inductor(mode: str | None, options: Mapping[str, Any], **match: Any) -> Any:
    """The inductor backend as torch.compile makes it, with a shorter sentence for an unknown option."""
    try:
        return torch._TorchCompileInductorWrapper(mode, options, None, **match)
    except RuntimeError:
        known = torch._inductor.list_options()
        for name in options:
            if name.replace("-", "_") not in known:
                ours = list(Options.__dataclass_fields__)
                near = difflib.get_close_matches(name, [*ours, *known], n=1)
                raise ValueError(
                    f"options has {name!r}, which is no option of backend='helion' ({', '.join(ours)}) and none of Inductor's "
                    f"(torch._inductor.list_options() lists them){f'; did you mean {near[0]!r}?' if near else '.'}"
                ) from None
        raise


def in_turn(compiler: Any, fusion_pass: FusionPass) -> CustomGraphPass:
    """What stands in Inductor's hook: the pass that the user has put there, if any, and then ours."""
    users = compiler.config.get(HOOK, getattr(torch._inductor.config, HOOK))
    return fusion_pass if users is None else InTurn([users, fusion_pass])


def reset() -> None:
    """Called by torch.compiler.reset(): drop reports, and recorded CUDA graphs, as the inductor backend does."""
    forget()
    inductor(None, {}).reset()


helion.reset = reset  # type: ignore[attr-defined]


@dataclass
class InTurn(CustomGraphPass):
    """Several post-grad passes as one."""

    passes: list[Callable[[torch.fx.Graph], None]] = field(default_factory=list)

    def __call__(self, graph: torch.fx.Graph) -> None:
        for each in self.passes:
            each(graph)

    def uuid(self) -> Any | None:
        """None, which keeps the graph out of Inductor's cache, if one of the passes cannot say what it is."""
        ids = [each.uuid() if isinstance(each, CustomGraphPass) else None for each in self.passes]
        return None if None in ids else repr(ids)
