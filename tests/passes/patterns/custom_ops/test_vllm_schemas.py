"""passes.patterns.custom_ops.vllm_schemas: the table of what is read, and operators as other versions of vLLM have them."""

import pytest
import torch

from helion_compile.passes.match.matched_graph import match_graph
from helion_compile.passes.patterns import PATTERNS
from helion_compile.passes.patterns.custom_ops.op_call import UNKNOWN, name_of
from helion_compile.passes.patterns.custom_ops.vllm_schemas import OPERATORS, TRIED
from tests.support.vllm.calls import Calls
from tests.support.vllm.matching import BF16, ops, reason, sites


def test_every_operator_that_is_read_is_in_the_table():
    anchors = set().union(*(pattern.ANCHORS for pattern in PATTERNS if pattern.__name__.rpartition(".")[2][:4] == "vllm"))
    assert anchors == OPERATORS.keys()
    assert all(set(operator.seen) <= set(TRIED) for operator in OPERATORS.values())


@pytest.mark.parametrize("name", OPERATORS)
def test_the_table_names_all_arguments(name):
    namespace, operator, overload = name.split(".")
    schema = getattr(getattr(getattr(ops, namespace), operator), overload)._schema
    assert {argument.name for argument in schema.arguments} == set(OPERATORS[name].arguments.split())


@pytest.fixture
def another_version(monkeypatch):
    """Defines an operator as some version of vLLM might have it, and lets it be read as if it had another one's name."""

    def define(schema, name):
        library = torch.library.Library("another_version", "FRAGMENT")
        libraries.append(library)
        library.define(schema)
        operator = schema.partition("(")[0]
        torch.library.register_fake(f"another_version::{operator}", lambda *args, **kwargs: None, lib=library)
        op = getattr(ops.another_version, operator).default
        ours = lambda node: name if name_of(node) == str(op) else name_of(node)  # noqa: E731
        for module in (
            "helion_compile.passes.match.matched_graph",
            "helion_compile.passes.patterns.custom_ops.vllm_schemas",
            "helion_compile.passes.patterns.custom_ops.vllm_norm",
        ):
            monkeypatch.setattr(f"{module}.name_of", ours)
        return op

    libraries = []
    yield define
    for library in libraries:
        library._destroy()


def normed(op, weight="weight", **more):
    calls = Calls()
    result, x = calls.empty(4, 64, dtype=BF16), calls.input(4, 64)
    call = calls.functional(op, result=result, input=x, **{weight: calls.input(64)}, epsilon=1e-6, **more)
    return calls.output(*calls.items(call, 1))


def test_an_operator_without_the_argument_it_had_is_refused(another_version):
    op = another_version("rms_norm(Tensor! result, Tensor input, Tensor gamma, float epsilon) -> ()", "_C.rms_norm.default")
    assert reason(normed(op, "gamma"), "norm") == f"another_version.rms_norm is given gamma=arg2: {UNKNOWN}"


@pytest.mark.parametrize(("given", "read_as"), [(False, 1), (True, 0)])
def test_a_new_argument_may_only_have_its_default_value(another_version, given, read_as):
    schema = "rms_norm(Tensor! result, Tensor input, Tensor? weight, float epsilon, bool gemma=False) -> ()"
    graph = normed(another_version(schema, "_C.rms_norm.default"), gemma=given)
    assert len(match_graph(graph).matches) == read_as
    if given:
        assert reason(graph, "norm") == f"another_version.rms_norm is given gemma=True: {UNKNOWN}"


def test_an_operator_that_writes_elsewhere_is_refused(another_version):
    op = another_version("rms_norm(Tensor result, Tensor input, Tensor! weight, float epsilon) -> ()", "_C.rms_norm.default")
    assert reason(normed(op), "norm").endswith(f"was known to write to 'result', and does not: {UNKNOWN}")


def test_an_operator_of_another_name_is_not_found(another_version):
    op = another_version("norm_rms(Tensor! result, Tensor input, Tensor? weight, float epsilon) -> ()", "_C.norm_rms.default")
    graph = normed(op)
    before = str(graph)
    assert sites(graph) == [] and str(graph) == before
