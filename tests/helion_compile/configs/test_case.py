# SPDX-License-Identifier: Apache-2.0
import copy
import json
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helion_compile.configs.case import Case

values = st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.text(max_size=12)
values |= st.floats(allow_nan=False, allow_infinity=False)
names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
cases = st.dictionaries(names, values, max_size=4).map(Case.from_json)


def test_text_is_readable_and_independent_of_order():
    case = Case(num_tokens=16, hidden_size=4096, dtype="bf16")
    assert str(case) == "dtype=bf16 hidden_size=4096 num_tokens=16"
    assert case == Case(dtype="bf16", hidden_size=4096, num_tokens=16)
    assert str(Case()) == "default" and not Case()


def test_facts_are_read_by_name():
    case = Case(hidden_size=4096, num_tokens=16)
    assert case["hidden_size"] == 4096
    assert dict(case.fields) == dict(case) == {"hidden_size": 4096, "num_tokens": 16}
    with pytest.raises(KeyError, match=r"the case \(hidden_size=4096 num_tokens=16\) has no key field 'dtype'"):
        case["dtype"]


def test_nothing_in_a_case_can_be_changed():
    case = Case(num_tokens=16)
    with pytest.raises(AttributeError, match=r"case\.replace\(num_tokens=…\)"):
        case.num_tokens = 32
    with pytest.raises(TypeError):
        case.fields["num_tokens"] = 32
    assert case.replace(num_tokens=32) == Case(num_tokens=32)
    assert case == Case(num_tokens=16)


def test_facts_that_python_calls_equal_but_json_does_not_are_different():
    assert Case(a=True) != Case(a=1)
    assert Case(a="1") != Case(a=1)
    assert Case(a="true") != Case(a=True)
    assert Case(a="null") != Case(a=None)
    assert Case(a=1.0) == Case(a=1)


def test_a_fact_may_be_called_self():
    assert Case.from_json({"self": 1, "fields": 2})["self"] == 1


def test_a_dtype_is_kept_under_its_short_name():
    assert Case(dtype=torch.bfloat16) == Case(dtype="bf16")


def test_numbers_order_by_size():
    assert sorted([Case(n=128), Case(n=16), Case(n="a"), Case()]) == [Case(), Case(n=16), Case(n=128), Case(n="a")]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**63, [1], {"a": 1}, b"x", "x" * 201, object()])
def test_what_is_no_plain_value_is_refused_in_one_sentence(value):
    with pytest.raises(ValueError, match="the key field num_tokens is ") as error:
        Case(num_tokens=value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("facts", [None, [], "num_tokens=16", {"../x": 1}, {"": 1}, {"a b": 1}])
def test_what_is_no_case_is_refused(facts):
    with pytest.raises(ValueError):
        Case.from_json(facts)


@given(cases)
def test_json_pickle_and_copy_give_the_case_back(case):
    for other in (Case.from_json(json.loads(json.dumps(case.to_json()))), pickle.loads(pickle.dumps(case))):
        assert other == case and hash(other) == hash(case) and str(other) == str(case)
    assert copy.deepcopy(case) == case


@given(cases, cases)
def test_equality_is_equality_of_the_json(one, other):
    assert (one == other) == (json.dumps(one.to_json()) == json.dumps(other.to_json()))
    assert (one == other) == (str(one) == str(other))


@given(cases, cases, cases)
def test_order_is_total(a, b, c):
    assert (a < b) + (b < a) + (a == b) == 1
    if a < b and b < c:
        assert a < c


def test_a_pickle_works_in_a_process_with_another_hash_seed():
    case = Case(hidden_size=4096, dtype="bf16")
    program = f"import pickle; from helion_compile import Case; print(pickle.loads({pickle.dumps(case)!r}) in {{{case!r}}})"
    env = {"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True).stdout == "True\n"
