# SPDX-License-Identifier: Apache-2.0
"""Programs put together at random: norms, activations, rotary embeddings, quantisers and products, each written in a way that
some library uses, with views, casts and residual sums between them and readers beside them.

Letters: M rows, K elements of a row, D elements of a head.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.joint_graph import joint_graph_passes
from torch._inductor.fx_passes.post_grad import reorder_for_locality, view_to_reshape
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from helion_compile.passes.semantics import Granularity, Quantize
from tests.support.conformance import Written, argument
from tests.support.corpus.all_quantisers import QUANTISERS
from tests.support.corpus.norms import NORMS

__all__ = ["SETTINGS", "Program", "arguments", "random_programs", "traced"]

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
D = 64
# Hypothesis explains a failure by tracing every line that runs, which takes minutes of a compiler.
SETTINGS = dict(
    phases=[phase for phase in Phase if phase is not Phase.explain],
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)


def silu_by_sigmoid(x):
    return torch.sigmoid(x) * x


def gelu_tanh(x):
    return F.gelu(x, approximate="tanh")


def relu_squared(x):
    return F.relu(x).square()


ACTIVATIONS = (F.silu, silu_by_sigmoid, F.gelu, gelu_tanh, relu_squared)


# x [1, M, H, D], angles [1, M, 1, D / 2]


def rotate_half(x, cos, sin):
    cos, sin = (torch.cat((table, table), -1) for table in (cos, sin))
    x1, x2 = x.chunk(2, -1)
    return x * cos + torch.cat((-x2, x1), -1) * sin


def chunked(x, cos, sin):
    x1, x2 = x.chunk(2, -1)
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), -1)


def stacked(x, cos, sin):
    x1, x2 = x[..., 0::2], x[..., 1::2]
    return torch.stack((x1 * cos - x2 * sin, x2 * cos + x1 * sin), -1).flatten(-2)


def strided_writes(x, cos, sin):
    x1, x2 = x[..., 0::2], x[..., 1::2]
    out = torch.empty_like(x)
    out[..., 0::2] = x1 * cos - x2 * sin
    out[..., 1::2] = x2 * cos + x1 * sin
    return out


def complex_product(x, cos, sin):
    pairs = torch.view_as_complex(x.float().contiguous().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * torch.complex(cos.float(), sin.float())).flatten(3).to(x.dtype)


ROPES = (rotate_half, chunked, stacked, strided_writes, complex_product)


def in_two(x):
    return x.reshape(2, -1, x.shape[1]) if x.shape[0] % 2 == 0 else x.unsqueeze(0)


# How a matrix [M, K] is seen: the same elements in the same order of rows, except crosswise.
VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "as it is": lambda x: x,
    "one sequence": lambda x: x.unsqueeze(0),
    "tokens apart": lambda x: x.unsqueeze(1),
    "two sequences": in_two,
    "two sequences crosswise": lambda x: in_two(x).transpose(0, 1),
    "half of wider rows": lambda x: torch.cat((x, -x), -1).chunk(2, -1)[1],
    "columns in memory": lambda x: x.t().contiguous().t(),
}


@dataclass(frozen=True)
class Quantised:
    """A quantiser of what a stage gives, and who reads its values and scales."""

    row: int  # of QUANTISERS
    view: str
    copies: int  # that the program writes
    read: frozenset[str]  # "q", "scale": by what is no product
    multiplied: bool


@dataclass(frozen=True)
class Stage:
    """x [M, K] to a new x [M, K]."""

    what: str  # "norm", "norm of heads", "norm of heads, rope", "activation", "rope" or "nothing"
    which: int  # of the table of these
    dtype: torch.dtype | None  # x is cast to it before
    view: str
    residual: str  # "none", "of one dtype" or "of another", which the sum has to promote
    projected: bool  # heads stand between two products
    gate: str  # of an activation: "none", "apart" or "halves"
    read: frozenset[str]  # "sum" and "out" by other operations, "result" by who called
    quantised: tuple[Quantised, ...]


@dataclass(frozen=True)
class Program:
    """Stages one behind the other; what hypothesis prints of it is all that is needed to make it again."""

    rows: int
    k: int
    dtype: torch.dtype
    stages: tuple[Stage, ...]

    @property
    def norms(self) -> list[Written]:
        """The rows of its norms."""
        return [_norm(stage) for stage in self.stages if stage.what.startswith("norm")]

    def __call__(self, x: torch.Tensor, residual: torch.Tensor, *others: torch.Tensor) -> list[torch.Tensor]:
        rest = iter(others)
        return self._run(x, residual, lambda make: next(rest))

    def _run(self, x: torch.Tensor, residual: torch.Tensor, take: Callable[[Callable], Any]) -> list[torch.Tensor]:
        """The results; ``take(make)`` gives the next operand besides x and the residual, which ``make()`` would make."""
        results = []
        for stage in self.stages:
            before = x
            x = x if stage.dtype is None else x.to(stage.dtype)
            seen = VIEWS[stage.view](x)
            if stage.residual != "none":
                added = VIEWS[stage.view](residual)
                seen = seen + (added if stage.residual == "of another" else added.to(seen.dtype))
                results += [seen.sin()] if "sum" in stage.read else []
            out = self._applied(stage, seen, take)
            results += [out.cos()] if "out" in stage.read else []
            results += [out] if "result" in stage.read else []
            x = out.reshape(self.rows, self.k)
            for quantised in stage.quantised:
                for _ in range(quantised.copies):
                    product, found = self._quantised(quantised, out, x, take)
                    results += found
                x = x if product is None else product
            residual = before
        return [*results, x]

    def _applied(self, stage: Stage, x: torch.Tensor, take: Callable) -> torch.Tensor:
        if stage.what == "nothing":
            return x
        if stage.what == "activation":
            function = ACTIVATIONS[stage.which % len(ACTIVATIONS)]
            if stage.gate == "halves":
                gate, up = torch.cat((x, x.flip(-1)), -1).chunk(2, -1)
                return function(gate) * up
            return function(x) * take(lambda: _random(*x.shape, dtype=x.dtype)) if stage.gate == "apart" else function(x)
        if stage.what == "rope":
            return self._turned(stage, x.reshape(1, self.rows, -1, D), take)
        row = _norm(stage)
        x = x if x.dtype in row.dtypes else x.to(BF16)
        if stage.what != "norm":
            x = self._projected(stage, x, take).reshape(1, self.rows, -1, D)
        sized = dataclasses.replace(row, sizes=tuple(x.shape))
        dtype, operands = x.dtype, [name for name in row.operands if name != "x"]
        given = [take(functools.partial(argument, name, sized, dtype)) for name in operands]
        out = row.function(x, *given)
        out = out[0] if isinstance(out, tuple) else out
        out = self._turned(stage, out, take) if stage.what.endswith("rope") else out
        return out if stage.what == "norm" else self._projected(stage, out, take)

    def _projected(self, stage: Stage, x: torch.Tensor, take: Callable) -> torch.Tensor:
        if not stage.projected:
            return x
        return x.reshape(self.rows, self.k) @ take(lambda: _random(self.k, self.k, dtype=x.dtype) / self.k**0.5)

    def _turned(self, stage: Stage, heads: torch.Tensor, take: Callable) -> torch.Tensor:
        angles = take(lambda: torch.outer(torch.arange(self.rows), 0.5 ** torch.arange(D // 2))[None, :, None])
        return ROPES[stage.which % len(ROPES)](heads, angles.cos().to(heads.dtype), angles.sin().to(heads.dtype))

    def _quantised(
        self, quantised: Quantised, out: torch.Tensor, x: torch.Tensor, take: Callable
    ) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """The product with the quantised values, if there is to be one, and what is returned of the values themselves."""
        row = QUANTISERS[quantised.row % len(QUANTISERS)]
        if row.op(x.dtype).granularity is Granularity.GROUP:
            seen = x.contiguous()  # some of them are written for nothing else
        else:
            seen = out if quantised.view == "as it is" else VIEWS[quantised.view](x)
        given = [take(functools.partial(argument, name, row, seen.dtype)) for name in row.operands if name != "x"]
        found = row.function(seen, *given)
        q, *rest = found if isinstance(found, tuple) else (found,)
        read = [q.float().abs()] if "q" in quantised.read else []
        read += [value.float() + 1 for value in rest] if "scale" in quantised.read else []
        op = row.op(seen.dtype)
        if not (quantised.multiplied and _multiplies(op) and seen.shape[-1] == self.k):
            return None, [q, *rest, *read]
        rows, scale = q.reshape(-1, self.k), rest[0].reshape(-1, 1)
        b = take(lambda: _random(self.k, self.k, dtype=FP32).mul(20).to(q.dtype))
        b_scale = take(lambda: _random(self.k, 1, dtype=FP32).abs() / self.k)
        if q.dtype == torch.int8:
            return (torch._int_mm(rows, b.t()) * scale * b_scale.flatten()).to(BF16), read
        return torch._scaled_mm(rows, b.t(), scale, b_scale.t(), out_dtype=BF16), read


def _norm(stage: Stage) -> Written:
    return NORMS[stage.which % len(NORMS)]


def _multiplies(op: Quantize) -> bool:
    symmetric = op.granularity is Granularity.TOKEN and not op.zero_point
    return symmetric and op.dtype in (torch.float8_e4m3fn, torch.int8)


def _random(*shape: int, dtype: torch.dtype, seed: int = 3) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


_SOME_INDEX = st.integers(0, 999)
STAGES = st.builds(
    Stage,
    what=st.sampled_from(
        ["norm", "norm", "norm", "activation", "activation", "rope", "norm of heads", "norm of heads, rope", "nothing"]
    ),
    which=_SOME_INDEX,
    dtype=st.sampled_from([None, None, None, BF16, FP16, FP32]),
    view=st.sampled_from(["as it is", "as it is", *VIEWS]),
    residual=st.sampled_from(["none", "none", "of one dtype", "of another"]),
    projected=st.booleans(),
    gate=st.sampled_from(["none", "apart", "halves"]),
    read=st.frozensets(st.sampled_from(["sum", "out", "result"])),
    quantised=st.lists(
        st.builds(
            Quantised,
            row=_SOME_INDEX,
            view=st.sampled_from(["as it is", *VIEWS]),
            copies=st.integers(1, 2),
            read=st.sampled_from([frozenset(), frozenset(), frozenset({"scale"}), frozenset({"q"})]),
            multiplied=st.booleans(),
        ),
        max_size=2,
    ).map(tuple),
)


def random_programs(stages: int) -> st.SearchStrategy[Program]:
    """Programs of up to as many stages."""
    return st.builds(
        Program,
        rows=st.sampled_from([1, 4, 6, 16]),
        k=st.sampled_from([128, 256, 384]),
        dtype=st.sampled_from([BF16, FP16, FP32]),
        stages=st.lists(STAGES, min_size=1, max_size=stages).map(tuple),
    )


def arguments(program: Program) -> list[torch.Tensor]:
    """All operands of a program; x has a row of one sign, one of zeros and one of large values."""
    x, residual = (_random(program.rows, program.k, dtype=program.dtype, seed=seed) for seed in (0, 1))
    x[0] = x[0].abs()
    if program.rows > 1:
        x[1], x[-1] = 0, x[-1] * 30
    others: list[torch.Tensor] = []

    def take(make: Callable[[], torch.Tensor]) -> torch.Tensor:
        others.append(make())
        return others[-1]

    program._run(x, residual, take)
    return [x, residual, *others]


def traced(program: Program, args: list[torch.Tensor]) -> GraphModule:
    """The program as Inductor's post-grad hook gets it: traced without Dynamo, which takes six times as long."""
    with torch.no_grad():
        module = make_fx(torch.func.functionalize(program), select_decomp_table(), tracing_mode="fake")(*args)
    joint_graph_passes(module)
    view_to_reshape(module)
    module.graph.eliminate_dead_code()
    reorder_for_locality(module.graph)
    module.recompile()
    return module
