# SPDX-License-Identifier: Apache-2.0
"""With ``dynamic=True``: an eps is a constant of the graph, guarded; other floats stay what Dynamo made of them."""

import pytest
import torch
from torch import nn

from helion_compile.frontend.backend import helion
from helion_compile.graph.specialize_eps import specialize_eps

EPS = 1e-6


class Compiled:
    """``function`` compiled with dynamic=True, and the Dynamo graphs after ``specialize_eps``."""

    def __init__(self, function):
        self.graphs = []
        self._function = torch.compile(function, backend=self._backend, dynamic=True, fullgraph=True)

    def __call__(self, *args):
        return self._function(*args)

    def _backend(self, module, inputs):
        specialize_eps(module)
        self.graphs.append(module.graph)
        return module

    def constants(self):
        return [arg for node in self.graphs[-1].nodes for arg in node.args if isinstance(arg, float)]


class Norm(nn.Module):
    def __init__(self, eps):
        super().__init__()
        self.variance_epsilon = eps

    def forward(self, x):
        return x + self.variance_epsilon


def default(x, epsilon_of_the_norm=0.5):
    return x + epsilon_of_the_norm


def other_default(x, bias=0.5):
    return x + bias


X = torch.zeros(3, 4)


@pytest.mark.parametrize(
    ("function", "value"),
    [
        (Norm(0.5), 0.5),
        (lambda x: x + EPS, EPS),
        (lambda x: default(x), 0.5),
        (lambda x: other_default(x), 0.5),
        (lambda x: x + 2 * EPS, 2 * EPS),
    ],
    ids=["attribute", "global", "default", "other default", "expression"],
)
def test_constants(function, value):
    compiled = Compiled(function)
    assert torch.equal(compiled(X), X + value)
    assert not compiled.graphs[0].find_nodes(op="call_method", target="item")
    assert torch.equal(compiled(torch.ones(5, 4)), torch.ones(5, 4) + value)
    assert len(compiled.graphs) == 1


def test_another_eps_is_another_graph():
    norm = Norm(0.5)
    compiled = Compiled(norm)
    compiled(X)
    norm.variance_epsilon = 0.25
    assert torch.equal(compiled(X), X + 0.25)
    assert [len(compiled.graphs), compiled.constants()] == [2, [0.25]]


@pytest.mark.parametrize("name", ["temperature", "steps", "reps"])
def test_other_floats_change_without_a_new_graph(name):
    module = nn.Module()
    module.forward = lambda x: x + getattr(module, name)
    compiled = Compiled(module)
    for value in (0.5, 0.25, 0.125):
        setattr(module, name, value)
        assert torch.equal(compiled(X), X + value)
    assert len(compiled.graphs) == 1


def test_an_eps_that_is_a_result():
    def function(x, eps):
        return x + eps, eps * 2

    result, doubled = Compiled(function)(X, 0.5)
    assert torch.equal(result, X + 0.5) and doubled == 1.0


def test_through_the_backend():
    compiled = torch.compile(Norm(0.5), backend="helion", dynamic=True)
    assert torch.equal(compiled(X), X + 0.5)
    assert torch.equal(compiled(torch.ones(2, 7)), torch.full((2, 7), 1.5))


def test_an_eps_that_the_model_computes_is_left_to_run_time():
    class Norm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("eps", torch.tensor(1e-6))

        def forward(self, x):
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps.item())

    model, x = Norm(), torch.randn(4, 64)
    with torch._dynamo.config.patch(capture_scalar_outputs=True), torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend=helion)(x), model(x))
