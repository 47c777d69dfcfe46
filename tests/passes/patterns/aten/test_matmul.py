# SPDX-License-Identifier: Apache-2.0
"""passes.patterns.aten.matmul: scaled products that the conformance table does not have, and partial matches."""

import re

import pytest
import torch

from helion_compile.passes.match.matched_graph import match_graph
from helion_compile.passes.semantics import Granularity, Matmul
from tests.support import programs, stubs
from tests.support.capture import capture
from tests.support.corpus import quantisers

aten = torch.ops.aten
INT8 = torch.int8
M, K, N = 16, 64, 48


def arguments(m=16):
    q, scale = quantisers.torchao_row(programs.tensor(m, 64))
    return q, scale, *programs.weights()


@pytest.mark.parametrize("m", [1, 16])
@pytest.mark.parametrize("with_bias", [False, True])
def test_row_wise_product(with_bias, m):
    bias = programs.tensor(48) if with_bias else None
    (match,) = match_graph(capture(programs.matmul, *arguments(m), bias).graph).matches
    assert match.op == Matmul(dtype=torch.bfloat16, bias=with_bias)
    assert set(match.inputs) == {"a", "b", "a_scale", "b_scale"} | ({"bias"} if with_bias else set())
    assert match.outputs == {"out": (match.anchor,)}


# Graphs by hand: what a CPU cannot run, or torch's front ends do not write, can still be in a graph.


class Graph:
    """A graph of aten calls on tensors without data; ``graph(target, *args)`` adds a call."""

    def __init__(self):
        self.graph = torch.fx.Graph()

    def tensor(self, *shape, dtype=torch.float32, like=None):
        node = self.graph.placeholder(f"arg{len(self.graph.nodes)}")
        value = torch.empty(shape, dtype=dtype, device="meta")
        node.meta["val"] = value if like is None else like(value)
        return node

    def __call__(self, target, *args, value=None, **kwargs):
        node = self.graph.call_function(target, args, kwargs)
        if value is None:
            values = torch.fx.node.map_arg((args, kwargs), lambda other: other.meta["val"])
            value = target(*values[0], **values[1])
        node.meta["val"] = value
        return node

    def operands(self, dtype=torch.float8_e4m3fn):
        return self.tensor(M, K, dtype=dtype), self.tensor(N, K, dtype=dtype, like=torch.Tensor.t)

    def match_graph(self, *outputs):
        self.graph.output(outputs)
        return match_graph(self.graph)


def product(graph, a_shape, b_shape, dtype=torch.bfloat16, scale_dtype=torch.float32, **more):
    a, b = graph.operands()
    scales = graph.tensor(*a_shape, dtype=scale_dtype), graph.tensor(*b_shape, dtype=scale_dtype)
    value = torch.empty(M, N, dtype=dtype, device="meta")
    return graph(aten._scaled_mm.default, a, b, *scales, value=value, out_dtype=dtype, **more)


@pytest.mark.parametrize(
    ("a_shape", "b_shape", "kind"),
    [
        ((M, 1), (1, N), Granularity.TOKEN),
        ((), (), Granularity.TENSOR),
        ((1,), (1,), Granularity.TENSOR),
        ((1, 1), (1, 1), Granularity.TENSOR),
        ((M, 2), (2, 3), Granularity.GROUP),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_shares_a_scale(a_shape, b_shape, kind, dtype):
    graph = Graph()
    (match,) = graph.match_graph(product(graph, a_shape, b_shape, dtype)).matches
    assert match.op == Matmul(dtype=dtype, a_scales=kind, b_scales=kind)


def test_the_dtype_of_the_scales_is_part_of_the_meaning():
    graph = Graph()
    (match,) = graph.match_graph(product(graph, (M, 2), (2, 3), scale_dtype=torch.float8_e8m0fnu)).matches
    assert match.op.scale_dtype == torch.float8_e8m0fnu


@pytest.mark.parametrize(
    ("a_shape", "b_shape", "reason"),
    [
        ((M, 1), (N - 1,), r"expected scales of shape \[16, 1\] and \[1, 48\]"),
        ((M - 1, 1), (1, N), "expected scales"),
        ((M, 1), (), "expected scales"),
    ],
)
def test_other_shapes_are_refused(a_shape, b_shape, reason):
    graph = Graph()
    matched = graph.match_graph(product(graph, a_shape, b_shape))
    assert not matched.matches
    assert re.match(reason, str(matched.refusals[0]))


def test_a_scaled_result_is_refused():
    graph = Graph()
    out = product(graph, (M, 1), (1, N), scale_result=graph.tensor(1))
    matched = graph.match_graph(out)
    assert not matched.matches
    assert str(matched.refusals[0]).startswith("a scaled result is in no pattern yet")


def test_operands_of_two_dtypes_are_refused():
    graph = Graph()
    a, b = graph.tensor(M, K, dtype=torch.float8_e5m2), graph.operands()[1]
    value = torch.empty(M, N, dtype=torch.bfloat16, device="meta")
    out = graph(aten._scaled_mm.default, a, b, graph.tensor(M, 1), graph.tensor(1, N), value=value)
    (refusal,) = graph.match_graph(out).refusals
    assert str(refusal) == "the operands are fp8 e5m2 and fp8 e4m3; two of one dtype fuse"


v2 = pytest.mark.skipif(not hasattr(aten, "_scaled_mm_v2"), reason="this torch has no _scaled_mm_v2")


def second_version(graph, recipes=([1], [1]), scales=1, swizzle=()):
    a, b = graph.operands()
    a_scales, b_scales = ([graph.tensor(*shape) for _ in range(scales)] for shape in ((M, 1), (1, N)))
    value = torch.empty(M, N, dtype=torch.bfloat16, device="meta")
    arguments = (
        a,
        b,
        a_scales,
        recipes[0],
        list(swizzle),
        b_scales,
        recipes[1],
        list(swizzle),
        None,
        torch.bfloat16,
        [],
        True,
    )
    return graph(aten._scaled_mm_v2.default, *arguments, value=value)


@v2
@pytest.mark.parametrize(
    ("recipe", "kind"), [(0, Granularity.TENSOR), (1, Granularity.TOKEN), (3, Granularity.GROUP), (5, Granularity.GROUP)]
)
def test_the_second_version_says_its_recipe(recipe, kind):
    graph = Graph()
    (match,) = graph.match_graph(second_version(graph, ([recipe], [recipe]))).matches
    assert match.op == Matmul(dtype=torch.bfloat16, a_scales=kind, b_scales=kind, fast_accum=True)


@v2
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"scales": 2}, "two levels of scales"),
        ({"swizzle": (1,)}, "swizzled scales"),
        ({"recipes": ([0], [1])}, "the two operands have scales of different kinds"),
    ],
)
def test_what_the_second_version_says_beyond(options, reason):
    graph = Graph()
    matched = graph.match_graph(second_version(graph, **options))
    assert not matched.matches and str(matched.refusals[0]).startswith(reason)


# --- int8


def scaled(graph, first, second, *, dtype=torch.float32, cast=True, out=None):
    """``(sums.to(dtype) * first * second).to(out)``."""
    sums = graph(aten._int_mm.default, *graph.operands(INT8))
    value = graph(torch.ops.prims.convert_element_type.default, sums, dtype) if cast else sums
    value = graph(aten.mul.Tensor, value, first)
    value = graph(aten.mul.Tensor, value, second)
    return graph(torch.ops.prims.convert_element_type.default, value, out) if out else value


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows_first", [False, True])
def test_integer_products(cast, dtype, rows_first):
    graph = Graph()
    scales = [graph.tensor(M, 1, dtype=dtype), graph.tensor(N, dtype=dtype)]
    out = scaled(graph, *(scales if rows_first else scales[::-1]), dtype=dtype, cast=cast, out=torch.float16)
    (match,) = graph.match_graph(out).matches
    assert match.op == Matmul(dtype=torch.float16, operands=INT8, scale_dtype=dtype, a_scale_first=rows_first)
    assert [match.inputs[name] for name in ("a_scale", "b_scale")] == scales
    assert match.outputs == {"out": (out,)}


@pytest.mark.parametrize("alpha", [1, 2])
def test_a_multiple_of_a_vector_is_no_bias(alpha):
    graph = Graph()
    value = scaled(graph, graph.tensor(M, 1), graph.tensor(N))
    out = graph(aten.add.Tensor, value, graph.tensor(N), alpha=alpha)
    (match,) = graph.match_graph(out).matches
    assert match.op.bias == (alpha == 1)
    assert match.outputs == {"out": (out if alpha == 1 else value,)}


def test_integers_that_nothing_scales_belong_to_nobody():
    graph = Graph()
    matched = graph.match_graph(graph(aten._int_mm.default, *graph.operands(INT8)))
    assert not matched.matches and not matched.refusals


def refusal_of(build):
    graph = Graph()
    matched = graph.match_graph(*build(graph))
    assert not matched.matches
    assert matched.refusals[0].found and matched.refusals[0].remedy
    return str(matched.refusals[0])


def test_near_misses_of_integer_products():
    def two_rows(graph):
        return (scaled(graph, graph.tensor(M, 1), graph.tensor(M, 1)),)

    def added(graph):
        sums = graph(aten._int_mm.default, *graph.operands(INT8))
        value = graph(aten.mul.Tensor, sums, graph.tensor(M, 1))
        return (graph(aten.add.Tensor, value, graph.tensor(N)),)

    def element(graph):
        return (scaled(graph, graph.tensor(M, N), graph.tensor(N)),)

    def two_dtypes(graph):
        return (scaled(graph, graph.tensor(M, 1, dtype=torch.bfloat16), graph.tensor(N), dtype=torch.bfloat16),)

    def shifted(graph):
        a, b = graph.tensor(M, K, dtype=torch.uint8), graph.operands(INT8)[1]
        return (graph(aten._int_mm.default, a, b, value=torch.empty(M, N, dtype=torch.int32, device="meta")),)

    def read_between(graph):
        out = scaled(graph, graph.tensor(M, 1), graph.tensor(N))
        return out, out.args[0]

    assert (
        refusal_of(two_rows)
        == "both factors of the product are of its rows; one of its rows and one of its columns can be read"
    )
    assert refusal_of(added).startswith("expected the other scale to be multiplied in, found aten.add.Tensor")
    assert refusal_of(element) == "expected a factor a row or a column of [16, 48], found one of shape [16, 48]"
    assert refusal_of(two_dtypes) == "the steps are in bf16, bf16, fp32; a product scaled in one dtype fuses"
    assert refusal_of(shifted).startswith("the operands are uint8 and int8, as on a CPU")
    assert "is read 2 times; a value of the product's own fuses" in refusal_of(read_between)


# --- operators of other libraries, by name


@pytest.fixture
def libraries():
    with stubs.libraries():
        yield


@pytest.mark.parametrize("fast_accum", [False, True])
@pytest.mark.parametrize("b_shape", [(N,), (1, N), (N, 1)])
def test_mslk_products(libraries, fast_accum, b_shape):
    graph = Graph()
    a, w = graph.tensor(M, K, dtype=torch.float8_e4m3fn), graph.tensor(N, K, dtype=torch.float8_e4m3fn)
    value = torch.empty(M, N, dtype=torch.bfloat16, device="meta")
    op = torch.ops.mslk.f8f8bf16_rowwise.default
    out = graph(op, a, w, graph.tensor(M, 1), graph.tensor(*b_shape), value=value, use_fast_accum=fast_accum)
    (match,) = graph.match_graph(out).matches
    assert match.op == Matmul(dtype=torch.bfloat16, b_is_rows=True, fast_accum=fast_accum)
    assert match.inputs["b"] is w


def test_scales_of_rows_in_the_shape_of_x_as_torchao_gives_them(libraries):
    graph = Graph()
    a, w = graph.tensor(M, K, dtype=torch.float8_e4m3fn), graph.tensor(N, K, dtype=torch.float8_e4m3fn)
    value = torch.empty(M, N, dtype=torch.bfloat16, device="meta")
    op = torch.ops.mslk.f8f8bf16_rowwise.default
    (match,) = graph.match_graph(graph(op, a, w, graph.tensor(2, M // 2, 1), graph.tensor(N, 1), value=value)).matches
    assert match.op.a_scales is match.op.b_scales is Granularity.TOKEN


@pytest.mark.parametrize("m", [16, N])
def test_the_scales_are_those_of_their_own_operands(m):
    """Also where both operands have as many rows, so that no shape tells one scale from the other."""
    given = dict(zip(("a", "a_scale", "b", "b_scale"), arguments(m), strict=True))
    captured = capture(programs.matmul, *given.values())
    (match,) = match_graph(captured.graph).matches
    placeholders = captured.graph.find_nodes(op="placeholder")
    for name, tensor in given.items():
        node = match.inputs[name]
        while node.op != "placeholder":
            (node,) = node.all_input_nodes
        assert captured.arguments[placeholders.index(node)] is tensor
