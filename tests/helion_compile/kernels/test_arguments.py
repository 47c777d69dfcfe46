# SPDX-License-Identifier: Apache-2.0
"""A kernel's arguments: one NamedTuple, which reference, key and support check take."""

import inspect
from typing import NamedTuple

import pytest

from helion_compile import kernel, kernels
from helion_compile.kernels import families
from helion_compile.kernels.arguments import takes


class Args(NamedTuple):
    x: object
    eps: float = 1e-6


@takes(Args)
def scale(args, *, out=None):
    """Of x."""
    return args.x * args.eps, out


def test_the_tuple_is_unpacked_by_position_and_by_name():
    assert scale(2.0, 3.0) == scale(x=2.0, eps=3.0) == scale(*Args(2.0, 3.0)) == (6.0, None)
    assert scale(2.0, out=1) == (2e-6, 1)
    assert str(inspect.signature(scale)).startswith("(x: ") and list(inspect.signature(scale).parameters) == [
        "x",
        "eps",
        "out",
    ]
    assert scale.__doc__ == "Of x."


def test_a_kernel_with_another_order_is_refused_where_it_is_declared():
    def swapped(eps, x):
        raise AssertionError("no test runs it")

    with pytest.raises(TypeError, match=r"takes \(x, eps\), the kernel takes \(eps, x\)"):
        kernel(swapped, reference=takes(Args)(lambda args: args.x))


@pytest.mark.parametrize("name", kernels.__all__)
def test_every_family_has_the_tuple_of_its_kernel(name):
    module = getattr(families, name)
    (arguments,) = [
        value for key, value in vars(module).items() if key.endswith("Args") and value.__module__ == module.__name__
    ]
    ours = getattr(module, name)
    assert list(arguments._fields) == list(ours.signature.parameters)
    defaults = {key: p.default for key, p in ours.signature.parameters.items() if p.default is not inspect.Parameter.empty}
    assert arguments._field_defaults == defaults
