# SPDX-License-Identifier: Apache-2.0
"""Dynamo: what a call of a kernel inside a compiled function becomes."""

import functools

import helion
import helion.language as hl
import pytest
import torch
from torch._dynamo.variables.builder import VariableBuilder

import helion_compile
from helion_compile import GradientError, HelionKernel, KernelArgumentError
from tests.support.graphs import Graphs, calls, compiled, kernel_nodes
from tests.support.small_kernels import accumulate, add, affine, last_dim_contiguous, split_sign

X = torch.arange(6.0).reshape(2, 3)


# --- one node a call --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_call_is_one_node_with_flat_arguments_and_a_key(dynamic):
    (node,) = calls(lambda x: affine(x, scale=3.0) + 1, X, dynamic=dynamic)
    assert node.target is torch.ops.higher_order.helion_kernel
    x, *rest = node.args
    assert x.op == "placeholder" and rest == [None, 3.0, 1, None]
    assert node.kwargs == {"kernel": affine.key}


@pytest.mark.parametrize(
    "function, expected",
    [
        (lambda x: affine(x), [None, 2.0, 1, None]),
        (lambda x: affine(x, None, 4), [None, 4, 1, None]),
        (lambda x: affine(repeat=2, x=x), [None, 2.0, 2, None]),
        (lambda x: affine(x, dtype=torch.float64), [None, 2.0, 1, torch.float64]),
        (lambda x: affine(x, repeat=x.size(0)), [None, 2.0, 2, None]),
    ],
)
def test_arguments_are_put_in_order_and_defaults_filled_in(function, expected):
    (node,) = calls(function, X)
    assert list(node.args[1:]) == expected


def test_a_size_is_passed_as_a_symbol():
    (node,) = calls(lambda x: affine(x, x, 1.0, x.size(0)), X, dynamic=True)
    assert isinstance(node.args[3].meta["example_value"], torch.SymInt)


def test_several_results():
    (node,) = calls(lambda x: split_sign(x - 2)[1] * 2, X)
    assert len(node.meta["example_value"]) == 2


@pytest.mark.parametrize("rows", [0, 1, 2, 7])
@pytest.mark.parametrize("dynamic", [False, True])
def test_any_batch_size(rows, dynamic):
    assert len(calls(lambda x: add(x, x), torch.ones(rows, 3), dynamic=dynamic)) == 1


def test_sizes_that_vary_share_one_graph():
    graphs = Graphs()
    function = torch.compile(lambda x: add(x, x) * 2, backend=graphs, fullgraph=True, dynamic=True)
    for rows in (2, 3, 64, 65, 1000):
        assert torch.equal(function(torch.ones(rows, 3)), torch.full((rows, 3), 4.0))
    assert len(graphs) == 1
    for rows in (0, 1):  # which torch.compile always treats apart
        assert torch.equal(function(torch.ones(rows, 3)), torch.full((rows, 3), 4.0))


def test_several_calls_are_several_nodes():
    def function(x):
        for _ in range(3):
            x = add(x, affine(x))
        return x

    assert [node.kwargs["kernel"] for node in calls(function, X)] == [affine.key, add.key] * 3


# --- where a kernel may be held ---------------------------------------------------------------------------------------


class Layer(torch.nn.Module):
    on_class = affine

    def __init__(self):
        super().__init__()
        self.kernel = add

    def forward(self, x):
        return self.kernel(x, self.on_class(x))


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([Layer(), Layer()])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_in_attributes_of_submodules():
    assert [node.kwargs["kernel"] for node in calls(Model(), X)] == [affine.key, add.key] * 2


KERNELS = {"one": add, "two": [affine, split_sign]}


def with_default(x, kernel=add):
    return kernel(x, x)


def holders():
    in_closure = add
    return {
        "closure": lambda x: in_closure(x, x),
        "dict": lambda x: KERNELS["one"](x, x),
        "list in dict": lambda x: KERNELS["two"][0](x),
        "default": with_default,
        "partial": functools.partial(affine, scale=5.0),
        "partial inside": lambda x: functools.partial(affine, scale=5.0)(x, x),
        "local dict": lambda x: {"a": add}["a"](x, x),
        "tuple of a loop": lambda x: [kernel(x, x) for kernel in (add, affine)][1],
        "function that takes it": lambda x: (lambda kernel: kernel(x, x))(add),
        "star arguments": lambda x: add(*(x, x)),
        "double star": lambda x: add(**{"x": x, "y": x}),
    }


@pytest.mark.parametrize("holder", holders())
def test_in_any_place_that_python_has(holder):
    function = holders()[holder]
    assert len(calls(lambda x: function(x), X)) == (2 if holder == "tuple of a loop" else 1)


def test_another_kernel_in_the_same_place_recompiles():
    layer = Layer()
    graphs = Graphs()
    function = torch.compile(layer, backend=graphs, fullgraph=True)
    assert torch.equal(function(X), X * 3) and torch.equal(function(X), X * 3)
    assert len(graphs) == 1
    layer.kernel = helion_compile.kernel(difference, reference=lambda x, y: x - y)
    assert torch.equal(function(X), -X)
    assert len(graphs) == 2


def difference(x, y):
    raise AssertionError("on a CPU only the reference runs")


def test_a_kernel_can_be_told_apart_while_tracing():
    function = torch.compile(lambda x, k: x + 1 if k is add else x - 1, backend="eager", fullgraph=True)
    assert torch.equal(function(X, add), X + 1) and torch.equal(function(X, affine), X - 1)


def test_a_kernel_can_be_compiled_itself():
    graphs = Graphs()
    assert torch.equal(torch.compile(add, backend=graphs, fullgraph=True)(X, X), X * 2)
    assert len(kernel_nodes(graphs[0])) == 1


def test_where_a_graph_breaks_at_a_kernel_its_inside_is_not_compiled():
    graphs = Graphs()
    with pytest.raises(GradientError):
        torch.compile(lambda x: add(x * 2, W), backend=graphs)(X)
    (before,) = graphs
    assert [node.op for node in before.graph.nodes] == ["placeholder", "call_function", "output"]  # x * 2


def test_only_our_type_is_added_to_dynamos_table():
    table = VariableBuilder._type_dispatch()
    assert HelionKernel in table
    ours = [entry for entry in table.values() if getattr(entry, "__module__", "").startswith("helion_compile")]
    assert len(ours) == 1


def test_helions_own_kernels_are_wrapped_as_before():
    """Its entry, where this torch lets it have one, stays; and a helion.kernel is not taken for one of ours."""

    @helion.kernel(ref_mode=helion.RefMode.EAGER, static_shapes=False)
    def doubled(x):
        out = torch.empty_like(x)
        for tile in hl.tile(x.size()):
            out[tile] = x[tile] * 2
        return out

    entry = VariableBuilder._type_dispatch().get(type(doubled))
    assert entry is None or entry.__module__.startswith("helion.")
    assert torch.equal(doubled(X), X * 2)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function, error, sentence",
    [
        (lambda x: add(x), KernelArgumentError, "test_add(x, y) was called with wrong arguments: missing a required"),
        (lambda x: add(x, [x]), KernelArgumentError, "argument 'y' is a list; a kernel takes tensors"),
        (lambda x: add(x, VariableBuilder), KernelArgumentError, "argument 'y' is a type; a kernel takes tensors"),
        (lambda x: add(x, x.device), KernelArgumentError, "argument 'y' is a device; a kernel takes tensors"),
        (lambda x: add(x, len), KernelArgumentError, "argument 'y' is a builtin_function_or_method; a kernel takes"),
        (lambda x: last_dim_contiguous(x.t()), KernelArgumentError, "the last dimension of x has stride 3"),
        (lambda x: add(x, W), GradientError, "'y' requiring grad, and a Helion kernel has no backward"),
    ],
)
def test_wrong_use_is_a_sentence_in_one_graph_and_the_eager_error_where_graphs_may_break(function, error, sentence):
    with pytest.raises(torch._dynamo.exc.Unsupported) as unsupported:
        torch.compile(function, backend="eager", fullgraph=True)(X)
    assert sentence in str(unsupported.value) and "internal error" not in str(unsupported.value).lower()
    torch.compiler.reset()
    with pytest.raises(error) as eager:
        torch.compile(function, backend="eager")(X)
    assert sentence in str(eager.value)


W = torch.ones(2, 3, requires_grad=True)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_weights_that_require_grad_are_no_obstacle_without_grad_mode(mode):
    def inside(x):
        with mode():
            return add(x, W)

    assert torch.equal(torch.compile(inside, backend="aot_eager", fullgraph=True)(X), X + 1)
    with mode():
        assert torch.equal(torch.compile(lambda x: add(x, W), backend="aot_eager", fullgraph=True)(X), X + 1)


def test_grad_mode_is_guarded():
    function = torch.compile(lambda x: add(x, W), backend="aot_eager")
    with torch.no_grad():
        function(X)
    with pytest.raises(GradientError):
        function(X)


def test_a_detached_call_leaves_the_gradient_of_the_rest():
    def function(x):
        return (add(x, W.detach()) * W).sum()

    torch.compile(function, backend="aot_eager", fullgraph=True)(X).backward()
    assert torch.equal(W.grad, X + 1)
    W.grad = None


@pytest.mark.parametrize(
    "reference, sentence",
    [
        (lambda x: x, "the reference returns its argument 'x' or a view of it"),
        (lambda x: x.t(), "the reference returns its argument 'x' or a view of it"),
        (lambda x: (x + 1,), "got a tuple of 1 elements"),
        (lambda x: None, "the reference returns None and mutates=() names no argument"),
    ],
)
def test_results_that_a_graph_cannot_hold_are_reported_by_name(reference, sentence):
    def unholdable(x):
        pass

    kernel = helion_compile.kernel(unholdable, reference=lambda x: reference(x))
    with pytest.raises(Exception) as error:
        torch.compile(lambda x: kernel(x), backend="eager", fullgraph=True)(X)
    assert "unholdable: " in str(error.value) and sentence in str(error.value)


def test_one_tensor_returned_twice_is_reported():
    def repeated(x):
        pass

    def reference(x):
        y = x + 1
        return y, y[:1]

    kernel = helion_compile.kernel(repeated, reference=reference)
    with pytest.raises(Exception, match="repeated: the reference returns its result 0 again or a view of it"):
        torch.compile(lambda x: kernel(x), backend="eager", fullgraph=True)(X)


# --- what code asks of a kernel object --------------------------------------------------------------------------------

OPTIONAL = {add: 2.0}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + hasattr(add, "mutates"),
        lambda x: x + hasattr(add, "warp"),
        lambda x: x + (getattr(add, "warp", None) is None),
        lambda x: x + add.name.endswith("add"),
        lambda x: x + len(accumulate.mutates),
        lambda x: x + (callable(add) and isinstance(add, HelionKernel)),
        lambda x: x + (add == add) + 2 * (add != affine) + 4 * (add == 3),
        lambda x: x + (add in OPTIONAL) + 2 * (affine in OPTIONAL) + OPTIONAL[add],
    ],
    ids=["hasattr", "hasattr of nothing", "getattr", "name", "mutates", "type", "equal", "in a dict"],
)
def test_what_is_asked_of_a_kernel_is_traced(function):
    compiled(function, X)  # which takes no graph break
