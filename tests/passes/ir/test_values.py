# SPDX-License-Identifier: Apache-2.0
"""passes.ir.values: what is known of values, without deciding anything for the compiler."""

import torch
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from helion_compile.passes.ir.values import known_equal, same_shape


def test_comparing_sizes_adds_no_guard():
    """A guard would compile the graph again for other sizes."""
    environment = ShapeEnv()
    shape = FakeTensorMode(shape_env=environment, static_shapes=False).from_tensor(torch.empty(5, 7)).shape
    rows, columns = shape
    assert known_equal(rows, rows) and known_equal(rows + columns, columns + rows) and same_shape(shape, (rows, columns))
    assert not known_equal(rows, 5) and not known_equal(rows, columns) and not same_shape(shape, (5, 7))
    assert not environment.guards
