# SPDX-License-Identifier: Apache-2.0
"""The higher-order op under each of the transformations a graph goes through: fake, functional, traced, exported."""

import io

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import helion_compile
from helion_compile import GradientError, UnknownKernelError
from helion_compile.graph.hop import helion_kernel
from tests.support.graphs import kernel_nodes
from tests.support.small_kernels import accumulate, add, affine, bump, fill_optional, split_sign

X = torch.arange(6.0).reshape(2, 3)


def returns(name, reference):
    def fn(x):
        pass

    return helion_compile.kernel(fn, reference=lambda x: reference(x), name=name)


# --- real and fake tensors --------------------------------------------------------------------------------------------


def test_on_real_tensors_it_runs_the_kernel():
    assert torch.equal(helion_kernel(X, X, kernel=add.key), X * 2)


def test_on_real_tensors_it_is_functional():
    total = X.clone()
    doubled, new = helion_kernel(total, X, kernel=accumulate.key)
    assert torch.equal(total, X) and torch.equal(new, X * 2) and torch.equal(doubled, X * 4)
    assert [value.tolist() for value in helion_kernel(X, None, kernel=fill_optional.key)] == [(X + 1).tolist()]


def test_an_unknown_key_is_an_error():
    with pytest.raises(
        UnknownKernelError,
        match="calls the Helion kernel tests.support.small_kernels::test_add@00000000, but this process has another",
    ):
        helion_kernel(X, X, kernel="tests.support.small_kernels::test_add@00000000")


@pytest.mark.parametrize("inside", [True, False])
def test_on_fake_tensors_it_gives_the_shapes_of_the_reference(inside):
    mode = FakeTensorMode()
    x = mode.from_tensor(torch.empty_strided((2, 3), (1, 2)))
    if inside:
        with mode:
            result = affine(x, dtype=torch.float16)
    else:
        result = affine(x, dtype=torch.float16)
    assert (result.shape, result.stride(), result.dtype) == ((2, 3), (1, 2), torch.float16)
    assert isinstance(result, torch._subclasses.FakeTensor)


def test_a_meta_tensor_gives_a_meta_tensor():
    assert add(X.to("meta"), X.to("meta")).is_meta


# --- traced -----------------------------------------------------------------------------------------------------------


def shapes(x):
    positive, negative = split_sign(x)
    return add(positive, negative), affine(x, repeat=x.size(0))


@pytest.mark.parametrize("tracing_mode", ["real", "fake", "symbolic"])
def test_make_fx_makes_a_node_of_each_call(tracing_mode):
    graph = make_fx(shapes, tracing_mode=tracing_mode)(X)
    assert [node.kwargs["kernel"] for node in kernel_nodes(graph)] == [split_sign.key, add.key, affine.key]
    torch.testing.assert_close(graph(X), shapes(X), rtol=0, atol=0)


def test_nodes_are_named_after_their_kernel():
    names = [node.name for node in kernel_nodes(make_fx(shapes)(X))]
    assert names == ["test_split_sign", "test_add", "test_affine"]


def test_make_fx_with_symbols_holds_for_other_sizes():
    graph = make_fx(shapes, tracing_mode="symbolic")(torch.ones(4, 3))
    assert isinstance(kernel_nodes(graph)[2].args[3], torch.fx.Node)  # repeat, the size
    other = torch.randn(7, 5)
    torch.testing.assert_close(graph(other), shapes(other), rtol=0, atol=0)


def test_compound_sizes_stay_symbols():
    """A result of 2·n rows has 2·n rows, in Helion 1.4's own op it had those of an example."""
    doubled = returns("test_doubled_rows", lambda x: torch.cat([x, x]))
    graph = make_fx(lambda x: doubled(x), tracing_mode="symbolic")(torch.ones(4, 3))
    (node,) = kernel_nodes(graph)
    (n, _), (rows, _) = node.args[0].meta["val"].shape, node.meta["val"].shape
    assert isinstance(rows, torch.SymInt) and rows.node.expr == 2 * n.node.expr


def test_a_graph_can_be_traced_again():
    graph = make_fx(make_fx(shapes)(X))(X)
    assert len(kernel_nodes(graph)) == 3


@pytest.mark.parametrize("tracing_mode", ["real", "fake", "symbolic"])
def test_mutation_is_a_copy_after_the_node(tracing_mode):
    def function(x):
        bump(x)
        return x * 2

    graph = make_fx(function, tracing_mode=tracing_mode)(X.clone())
    assert len(kernel_nodes(graph)) == 1
    x = X.clone()
    assert torch.equal(graph(x), (X + 1) * 2) and torch.equal(x, X + 1)


@pytest.mark.parametrize("given", [True, False])
def test_an_optional_argument_that_is_written_to(given):
    graph = make_fx(lambda x, *out: fill_optional(x, *out))(X, *[torch.zeros(2, 3)][:given])
    out = [torch.zeros(2, 3)][:given]
    assert torch.equal(graph(X, *out), X + 1) and all(torch.equal(each, X) for each in out)


def test_functionalize_takes_mutation_to_the_end():
    def function(x):
        y = x[0]
        bump(y)
        accumulate(x, x.clone())
        return x + 1

    graph = make_fx(torch.func.functionalize(function))(X.clone())
    assert [node.target for node in graph.graph.nodes].count(torch.ops.aten.copy_.default) == 1
    x, expected = X.clone(), X.clone()
    assert torch.equal(graph(x), function(expected)) and torch.equal(x, expected)


# --- compiled and exported --------------------------------------------------------------------------------------------


def test_aot_autograd_gives_functional_graphs_that_hold_the_nodes():
    graphs = []

    def keep(module, inputs):
        graphs.append(module)
        return module

    backend = torch._dynamo.backends.common.aot_autograd(fw_compiler=keep)

    def function(x):
        y = x + 1
        bump(y)
        return shapes(y)

    result = torch.compile(function, backend=backend, fullgraph=True, dynamic=True)(X)
    torch.testing.assert_close(result, function(X), rtol=0, atol=0)
    (graph,) = graphs
    assert len(kernel_nodes(graph)) == 4
    assert not any("copy_" in str(node.target) for node in graph.graph.nodes)


class Module(torch.nn.Module):
    def forward(self, x):
        return shapes(x + 1)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("dynamic", [True, False])
def test_an_exported_program_holds_the_nodes_and_runs(strict, dynamic):
    rows = {0: torch.export.Dim("rows", min=2)} if dynamic else None
    program = torch.export.export(Module(), (X,), strict=strict, dynamic_shapes={"x": rows} if dynamic else None)
    assert len(kernel_nodes(program.graph_module)) == 3
    for x in (X, torch.randn(5, 3)) if dynamic else (X,):
        torch.testing.assert_close(program.module()(x), Module()(x), rtol=0, atol=0)
    lowered = program.run_decompositions()
    assert len(kernel_nodes(lowered.graph_module)) == 3
    torch.testing.assert_close(lowered.module()(X), Module()(X), rtol=0, atol=0)


class Bumping(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(3))

    def forward(self, x):
        bump(self.count)
        return x + self.count


@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_program_keeps_mutation_of_a_buffer(strict):
    program = torch.export.export(Bumping(), (X,), strict=strict)
    assert len(kernel_nodes(program.graph_module)) == 1
    module = program.module()
    assert torch.equal(module(X), X + 1) and torch.equal(module(X), X + 2)


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("fullgraph", [True, False])
def test_a_compiled_call_that_requires_grad_says_how_to_go_on(backend, fullgraph):
    x = X.clone().requires_grad_()
    with pytest.raises(torch._dynamo.exc.Unsupported if fullgraph else GradientError) as error:
        torch.compile(lambda x: add(x, x), backend=backend, fullgraph=fullgraph)(x)
    assert "'x' requiring grad, and a Helion kernel has no backward" in str(error.value)
    assert "torch.no_grad() or torch.inference_mode(), pass x.detach()" in str(error.value)


@pytest.mark.parametrize("tracing_mode", ["real", "fake", "symbolic"])
def test_a_traced_call_that_requires_grad_says_how_to_go_on(tracing_mode):
    x = X.clone().requires_grad_()
    with pytest.raises(GradientError, match="'x' requiring grad"):
        make_fx(lambda x: add(x, x), tracing_mode=tracing_mode)(x)
    with torch.no_grad():
        assert len(kernel_nodes(make_fx(lambda x: add(x, x), tracing_mode=tracing_mode)(x))) == 1


def test_a_node_that_requires_grad_when_run_is_an_error():
    graph = make_fx(lambda x: add(x, x))(X)
    with pytest.raises(GradientError, match="'x' requiring grad"):
        graph(X.clone().requires_grad_())


@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_module_whose_weight_requires_grad(strict):
    class Weighted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

        def forward(self, x):
            return add(x, self.weight)

    with pytest.raises((GradientError, torch._dynamo.exc.Unsupported), match="'y' requiring grad"):
        torch.export.export(Weighted(), (X,), strict=strict)
    with torch.no_grad():
        program = torch.export.export(Weighted(), (X,), strict=strict)
        assert torch.equal(program.module()(X), X + 1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_gradient_no_error(mode):
    x = X.clone().requires_grad_()
    with mode():
        assert torch.equal(helion_kernel(x, x, kernel=add.key), X * 2)
        assert torch.equal(torch.compile(lambda x: add(x, x), backend="aot_eager", fullgraph=True)(x), X * 2)


# --- what a graph cannot hold -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reference, sentence",
    [
        (lambda x: x, "the reference returns its argument 'x' or a view of it. Return new tensors"),
        (lambda x: (x + 1, x[0]), "the reference returns its argument 'x' or a view of it. Return new tensors"),
        (lambda x: (x + 1,), "a tuple of two or more tensors, or None; got a tuple of 1 elements"),
        (lambda x: None, "would drop the call"),
    ],
)
def test_results_that_a_graph_cannot_hold(reference, sentence):
    kernel = returns("test_unholdable", reference)
    with pytest.raises(TypeError, match="test_unholdable: ") as error:
        make_fx(lambda x: kernel(x), tracing_mode="fake")(X)
    assert sentence in str(error.value)


def test_exported_programs_can_be_saved():
    """Not promised by PyTorch for every higher-order op; where it works, it works for ours."""
    program = torch.export.export(Module(), (X,))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    torch.testing.assert_close(torch.export.load(file).module()(X), Module()(X), rtol=0, atol=0)


def test_a_traced_node_has_the_fingerprint_also_where_the_call_had_the_name_alone():
    graph = make_fx(lambda x: helion_kernel(x, x, kernel=add.key.partition("@")[0]))(X).graph
    (node,) = graph.find_nodes(op="call_function", target=helion_kernel)
    assert node.kwargs["kernel"] == add.key and "@" in add.key
