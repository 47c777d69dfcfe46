# SPDX-License-Identifier: Apache-2.0
"""helion_compile.configs.lookup: which row a case finds."""

import pytest

from helion_compile.configs.case import Case
from helion_compile.configs.lookup import CaseIndex
from helion_compile.configs.row import Row

INDEX = CaseIndex([Row(Case(k=k, num_tokens=tokens), {}) for k in (1024, 4096) for tokens in (1, 8, 16, 64)], ("num_tokens",))


def found(**facts):
    row, match = INDEX.find(Case(**facts))
    return row.case["k"], row.case["num_tokens"], match


@pytest.mark.parametrize(("tokens", "row"), [(1, 1), (2, 8), (8, 8), (9, 16), (16, 16), (17, 64), (64, 64), (65, 64)])
def test_the_nearest_group_gives_its_next_larger_row_or_the_one_of_as_many_tokens(tokens, row):
    assert found(k=4000, num_tokens=tokens) == (4096, row, "nearest")


@pytest.mark.parametrize(
    ("tokens", "row", "match"),
    [(8, 8, "exact"), (9, 16, "bucketed"), (64, 64, "exact"), (65, 64, "nearest")],
)
def test_its_own_group_comes_first(tokens, row, match):
    assert found(k=1024, num_tokens=tokens) == (1024, row, match)


def test_rows_of_bf16_are_near_for_fp16_and_those_of_fp32_are_not():
    index = CaseIndex([Row(Case(k=k, dtype=dtype), {}) for k, dtype in ((4096, "bf16"), (2048, "fp32"))], ())
    row, match = index.find(Case(k=2048, dtype="fp16"))
    assert (row.case, match) == (Case(k=4096, dtype="bf16"), "nearest")
    assert index.find(Case(k=4096, dtype="fp32"))[0].case == Case(k=2048, dtype="fp32")
