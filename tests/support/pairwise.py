# SPDX-License-Identifier: Apache-2.0
"""Fewer tests of a product of parameters: every pair of values is run, the rest by ``make test-long``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

__all__ = ["pairwise"]


def pairwise(*axes: Iterable[Any]) -> list[Any]:
    """All combinations of one value an axis, as pytest takes them; those that bring no new pair of values are slow tests.

    For ``@pytest.mark.parametrize(("name", "dtype", "exact"), pairwise(NAMES, DTYPES, (True, False)))``.  The choice depends
    on the axes alone, so it is the same in every process.
    """
    values = [list(axis) for axis in axes]
    chosen = set(_cover([len(axis) for axis in values]))
    return [
        pytest.param(
            *(axis[index] for axis, index in zip(values, indices, strict=True)),
            marks=[] if indices in chosen else [pytest.mark.slow],
        )
        for indices in itertools.product(*(range(len(axis)) for axis in values))
    ]


def _cover(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Index tuples that hold every pair of indices of two axes, taken greedily."""
    left = {
        (one, i, other, j)
        for one, other in itertools.combinations(range(len(sizes)), 2)
        for i in range(sizes[one])
        for j in range(sizes[other])
    }
    candidates = list(itertools.product(*map(range, sizes)))
    chosen = []
    while left:
        best = max(candidates, key=lambda each: len(left & _pairs(each)))
        left -= _pairs(best)
        chosen.append(best)
    return chosen


def _pairs(indices: tuple[int, ...]) -> set[tuple[int, int, int, int]]:
    return {(one, indices[one], other, indices[other]) for one, other in itertools.combinations(range(len(indices)), 2)}
