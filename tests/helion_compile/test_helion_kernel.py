# SPDX-License-Identifier: Apache-2.0
"""HelionKernel outside of any compiler: how it is made, called, copied, and what it says about wrong use."""

import copy
import functools
import pickle

import helion
import helion.language as hl
import pytest
import torch

import helion_compile
from helion_compile import (
    Case,
    Configs,
    DuplicateKernelError,
    GradientError,
    HelionKernel,
    KernelArgumentError,
)
from helion_compile.configs.table import Gpu, Row
from helion_compile.definitions import registry
from tests.support.small_kernels import accumulate, add, affine, bump, fill_optional, last_dim_contiguous, split_sign

X = torch.arange(6.0).reshape(2, 3)


def body(x):
    out = torch.empty_like(x)
    for tile in hl.tile(x.size()):
        out[tile] = x[tile]
    return out


def a_kernel(reference=torch.clone, fn=None, **options):
    """A kernel of a name of its own, made here and now."""

    def made_here(x):
        raise AssertionError("on a CPU only the reference runs")

    return helion_compile.kernel(fn or made_here, reference=lambda x: reference(x), **options)


# --- calls ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, expected",
    [
        (lambda: affine(X), X * 2),
        (lambda: affine(X, X), X * 3),
        (lambda: affine(X, None, 5.0), X * 5),
        (lambda: affine(X, bias=X, scale=4), X * 5),
        (lambda: affine(scale=3.0, x=X), X * 3),
        (lambda: affine(X, X, 1.0, 2), X * 3),
        (lambda: affine(X, X, repeat=3, scale=True), X * 4),
        (lambda: affine(X, dtype=torch.float64), (X * 2).double()),
    ],
)
def test_arguments_by_position_by_keyword_and_by_default(call, expected):
    result = call()
    assert result.dtype == expected.dtype and torch.equal(result, expected)


def test_a_symbolic_integer_is_an_argument_like_any_other():
    from torch._dynamo.source import ConstantSource
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    env = ShapeEnv()
    symbol = env.create_symintnode(env.create_symbol(2, ConstantSource("n")), hint=2)
    assert isinstance(symbol, torch.SymInt)
    assert torch.equal(affine(X, X, 1.0, symbol), X * 3)


def test_one_tensor_a_tuple_or_none_as_result():
    assert isinstance(add(X, X), torch.Tensor)
    positive, negative = split_sign(X - 2)
    assert torch.equal(positive, (X - 2).clamp(min=0)) and torch.equal(negative, (X - 2).clamp(max=0))
    assert bump(X.clone()) is None


def test_a_declared_mutation_is_in_place_beside_the_result():
    total, same = X.clone(), X.clone()
    doubled = accumulate(total, same)
    assert torch.equal(total, X * 2) and torch.equal(doubled, X * 4) and torch.equal(same, X)


def test_a_declared_mutation_of_a_view_reaches_its_base():
    base = torch.zeros(4, 6)
    bump(base[1:3, ::2])
    assert base.sum() == 6 and base[1:3, ::2].eq(1).all()


def test_an_optional_argument_that_is_written_to():
    out = torch.empty_like(X)
    assert torch.equal(fill_optional(X, out), X + 1) and torch.equal(out, X)
    assert torch.equal(fill_optional(X), X + 1)


def test_empty_tensors():
    assert add(torch.empty(0, 3), torch.empty(0, 3)).shape == (0, 3)


def test_a_helion_kernel_object_will_do():
    given = helion.kernel(body, config=helion.Config(block_sizes=[4, 4]), static_shapes=True)
    kernel = helion_compile.kernel(given, reference=lambda x: x.clone(), name="test_given")
    assert kernel.helion is given and torch.equal(kernel(X), X)
    other = helion.kernel(body, config=helion.Config(block_sizes=[8, 8]), static_shapes=True)
    assert helion_compile.kernel(other, reference=kernel.reference, name="test_given").key != kernel.key


def test_it_looks_like_its_function():
    assert add.__name__ == "add" and add.__doc__.startswith("One tensor") and add.__module__ == "tests.support.small_kernels"
    assert repr(add) == f"<HelionKernel {add.key} at {add.place}>"
    assert add.place.endswith(f"small_kernels.py:{add.fn.__code__.co_firstlineno}")


def test_helion_makes_triton_code_of_each_small_kernel():
    """The bodies beside the references are real: they bind and generate code, which needs no GPU."""
    calls = [(add, X, X), (affine, X, X, 2.0, 1, None), (split_sign, X), (accumulate, X, X), (last_dim_contiguous, X)]
    for kernel, *args in calls:
        bound = kernel.helion.bind(tuple(args))
        assert "@triton.jit" in bound.to_triton_code(bound.config_spec.default_config())


# --- wrong calls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, asked, found, remedy",
    [
        (lambda: add(X), "test_add(x, y)", "missing a required argument: 'y'", ""),
        (lambda: add(X, X, X), "test_add(x, y)", "too many positional arguments", ""),
        (lambda: add(X, z=X), "test_add(x, y)", "missing a required argument: 'y'", ""),
        (lambda: affine(X, z=X), "test_affine(", "unexpected keyword argument 'z'", ""),
        (lambda: add(X, [X]), "test_add: argument 'y'", "is a list", "one by one"),
        (lambda: add(X, object()), "test_add: argument 'y'", "is a object", "takes tensors, None, numbers"),
        (lambda: add(X.to_sparse(), X), "argument 'x'", "of layout torch.sparse_coo", "Pass a strided tensor"),
        (lambda: torch.vmap(add)(X, X), "argument 'x'", "inside torch.vmap", "on the whole batch"),
        (lambda: last_dim_contiguous(X.t()), "cannot take", "has stride 3", "call x.contiguous()"),
        (lambda: add(X, X.to("meta")), "cannot take", "different devices: cpu, meta", ""),
    ],
)
def test_a_wrong_call_says_what_was_asked_what_was_found_and_what_to_do(call, asked, found, remedy):
    with pytest.raises(KernelArgumentError) as error:
        call()
    assert all(part in str(error.value) for part in (asked, found, remedy)), str(error.value)
    assert isinstance(error.value, TypeError)


def test_a_tensor_that_wraps_others_is_refused():
    from torch.testing._internal.two_tensor import TwoTensor

    with pytest.raises(KernelArgumentError, match="'y' is a TwoTensor, which wraps other tensors"):
        add(X, TwoTensor(X, X))


# --- gradients --------------------------------------------------------------------------------------------------------


def test_an_input_that_requires_grad_is_an_error_that_says_how_to_go_on():
    x = X.clone().requires_grad_()
    with pytest.raises(GradientError, match=r"'y' requiring grad.*no backward.*torch.no_grad\(\).*y.detach\(\)"):
        add(X, x)
    with torch.no_grad():
        assert not add(X, x).requires_grad
    with torch.inference_mode():
        assert add(X, x).is_inference()
    assert torch.equal(add(X, x.detach()), X * 2)


def test_functional_gradients_are_errors_too():
    with pytest.raises(GradientError, match="no backward"):
        torch.func.grad(lambda x: add(x, x).sum())(X)
    for mode in (torch.enable_grad, torch.no_grad):
        with mode(), pytest.raises(GradientError, match="forward-mode AD on 'x'"):
            torch.func.jvp(lambda x: add(x, X), (X,), (X,))


# --- definition -------------------------------------------------------------------------------------------------------


def test_two_kernels_of_one_name_are_an_error_that_names_both_places():
    with pytest.raises(DuplicateKernelError) as error:
        a_kernel(name=add.name)
    message = str(error.value)
    assert add.place in message and "test_helion_kernel.py:" in message and "kernel(name=...)" in message
    assert registry.find_kernel(add.key) is add


def test_the_same_function_defined_again_takes_the_name():
    first = a_kernel(torch.abs, name="test_again")
    key = first.key
    second = a_kernel(torch.neg, name="test_again")
    assert second.key != key
    assert registry.find_kernel(key) is first and registry.find_kernel(second.key) is second


def test_a_module_that_is_loaded_twice_defines_its_kernels_twice():
    def twice(x):
        pass

    helion_compile.kernel(twice, reference=lambda x: x.clone(), name="test::twice")
    copied = type(twice)(twice.__code__, twice.__globals__)
    copied.__module__, copied.__qualname__ = "__main__", "twice"
    helion_compile.kernel(copied, reference=lambda x: x.clone(), name="test::twice")


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"mutates": ("y",)}, r"mutates=\('y',\) names y, but the parameters are x"),
        ({"mutates": "x"}, r"mutates='x', where a tuple of names belongs, such as mutates=\('x',\)"),
        ({"configs": Configs(bucketed="num_tokens")}, r"Configs.bucketed='num_tokens', where a tuple of names belongs"),
        ({"name": "no-identifier"}, r"the name 'no-identifier'; .* need an identifier"),
    ],
)
def test_a_wrong_definition_is_reported_where_it_stands(options, expected):
    with pytest.raises(TypeError, match=expected):
        a_kernel(**options)


def test_a_definition_needs_a_function_and_a_reference_of_the_same_parameters():
    def two(x, y):
        pass

    def several(*x):
        pass

    with pytest.raises(TypeError, match="two: kernel.. needs reference=, the same function in plain torch"):
        helion_compile.kernel(two)
    with pytest.raises(TypeError, match=r"two: reference takes \(x\), the kernel takes \(x, y\)"):
        helion_compile.kernel(two, reference=lambda x: x)
    with pytest.raises(TypeError, match="two: reference is a int; pass a function"):
        helion_compile.kernel(two, reference=3)
    with pytest.raises(TypeError, match="takes a function or a helion.kernel, got int"):
        helion_compile.kernel(3, reference=lambda x: x)
    with pytest.raises(TypeError, match=r"several: parameter \*x is variadic positional"):
        helion_compile.kernel(several, reference=several)
    with pytest.raises(TypeError, match=r"was given a lambda \(.*Write it with def"):
        helion_compile.kernel(lambda x: x, reference=lambda x: x)


# --- results a graph cannot hold --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reference, expected",
    [
        (lambda x: (x + 1,), r"a tuple of two or more tensors, or None; got a tuple of 1 elements"),
        (lambda x: [x + 1, x + 2], r"got a list of 2 elements"),
        (lambda x: (x + 1, 2), r"got a tuple of 2 elements"),
        (lambda x: 3, r"got a int"),
    ],
)
def test_other_results_are_reported_in_eager_mode_as_in_graphs(reference, expected):
    kernel = a_kernel(reference, name="test_results")
    with pytest.raises(TypeError, match=expected):
        kernel(X)
    with pytest.raises(TypeError, match=expected):
        kernel.trace((X,))


# --- identity ---------------------------------------------------------------------------------------------------------


def test_copies_are_the_kernel_itself():
    module = torch.nn.Module()
    module.kernel = add
    assert copy.copy(add) is add and copy.deepcopy(module).kernel is add
    assert pickle.loads(pickle.dumps(add)) is add
    assert pickle.loads(pickle.dumps(functools.partial(affine, scale=3.0)))(X).equal(X * 3)


def test_a_pickle_of_an_unknown_version_says_so():
    text = pickle.dumps(add).replace(add.fingerprint.encode(), b"00000000")
    with pytest.raises(LookupError, match="another version of it, tests.support.small_kernels::test_add@"):
        pickle.loads(text)
    with pytest.raises(LookupError, match="has not defined it.*import the kernel's module first"):
        registry.find_kernel("nowhere@00000000")


# --- tuned configs ----------------------------------------------------------------------------------------------------


def test_rows_are_for_the_version_that_helion_makes_code_of(tmp_path, monkeypatch):
    """Another `reference` is another graph, with the same kernel and so the same tuned rows; another body has none."""
    monkeypatch.setenv("HELION_COMPILE_CONFIG_DIR", str(tmp_path))
    h200 = Gpu("NVIDIA H200", (9, 0))
    tuned = helion_compile.kernel(body, reference=lambda x: x.clone(), name="test_tuned")
    made_with = {"kernel": tuned.config_fingerprint}
    tuned.table.add([Row(Case(), {"num_warps": 2}, made_with=made_with)], h200)
    again = helion_compile.kernel(body, reference=lambda x: x + 0, check_supported=lambda x: None, name="test_tuned")
    assert again.key != tuned.key
    assert again.table.pick(Case(), h200).config == {"num_warps": 2}
    assert a_kernel(name="test_tuned_other").config_fingerprint != tuned.config_fingerprint
    coarser = helion_compile.kernel(body, reference=again.reference, name="test_tuned", configs=Configs(bucketed=("n",)))
    assert coarser.table.pick(Case(), h200).config is None


def test_configs_given_to_helion_are_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("HELION_COMPILE_CONFIG_DIR", str(tmp_path))
    given = helion.kernel(body, config=helion.Config(block_sizes=[4, 4]))
    kernel = helion_compile.kernel(given, reference=lambda x: x.clone(), name="test_given")
    assert kernel.table.pick(Case(), Gpu("NVIDIA H200", (9, 0))).config == {"block_sizes": [4, 4]}


def test_bare_and_called_decorator():
    def bare(x):
        pass

    assert isinstance(helion_compile.kernel(reference=lambda x: x.clone())(bare), HelionKernel)
