# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to a table file, no row is lost or half-written, and the user sees sentences, not tracebacks."""

import json
import multiprocessing
import os
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helion_compile.configs.table import Case, ConfigTable, Gpu
from tests.support.table_files import ASKED, H200, SOUND, WHOLE, numbers, put, row

fork = multiprocessing.get_context("fork")


def pick_with_shipped(own, shipped):
    put(shipped, [{**SOUND, "config": {"name": "shipped"}}])
    table = ConfigTable("quant", folders=[own, shipped], kernel_fingerprint="v1")
    return table, table.pick(ASKED, H200)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        WHOLE[: len(WHOLE) // 2],
        WHOLE[:-1],
        b"\xff\xfe\x00 not text",
        b"{}",
        b'"rows"',
        b"null",
        b"[" * 100_000,
        WHOLE.replace(b'"sound"', b"NaN"),
        WHOLE + b"]",
        b'[{"case": {"n": ' + b"9" * 5000 + b"}}]",
    ],
    ids=["empty", "half", "last byte", "binary", "object", "text", "null", "deep", "nan", "twice", "huge number"],
)
def test_a_file_that_is_no_table_is_passed_over_with_one_sentence(tmp_path, caplog, content):
    path = put(tmp_path / "own", content)
    table, pick = pick_with_shipped(tmp_path / "own", tmp_path / "shipped")
    assert pick.config == {"name": "shipped"}
    (sentence,) = caplog.messages
    assert sentence.startswith(f"the table {path} is passed over: ") and "\n" not in sentence
    assert table.problems == [sentence]


@pytest.mark.parametrize(
    "entry",
    [
        None,
        7,
        "row",
        [],
        {},
        {"config": {"a": 1}},
        {"case": None, "config": {"a": 1}},
        {"case": {"k": [4096]}, "config": {"a": 1}},
        {"case": {"../k": 1}, "config": {"a": 1}},
        {"case": {"k": 10**400}, "config": {"a": 1}},
        {"case": {"k": 1}},
        {"case": {"k": 1}, "config": {}},
        {"case": {"k": 1}, "config": "num_warps=4"},
        {"case": {"k": 1}, "config": {"a": 1}, "us": "fast"},
        {"case": {"k": 1}, "config": {"a": 1}, "us": -1},
        {"case": {"k": 1}, "config": {"a": 1}, "us": True},
        {"case": {"k": 1}, "config": {"a": 1}, "baselines": [1]},
        {"case": {"k": 1}, "config": {"a": 1}, "baselines": {"inductor": None}},
        {"case": {"k": 1}, "config": {"a": 1}, "made_with": "helion 1.4"},
        {"case": {"k": "\u001b[31m\nred"}, "config": 3},
        {"case": {"k": 1}, "config": {"a": 1}, "us": 10**400},
        {"case": {"k": 1}, "config": {"a": 1}, "us": 10**300},
        {"case": {"k": 1}, "config": {"a": 1}, "baselines": {"inductor": 10**400}},
    ],
)
def test_a_damaged_row_is_skipped_with_one_sentence_and_the_others_are_used(tmp_path, caplog, entry):
    path = put(tmp_path / "own", [entry, SOUND])
    _, pick = pick_with_shipped(tmp_path / "own", tmp_path / "shipped")
    assert pick.config == {"name": "sound"}
    (sentence,) = caplog.messages
    assert sentence.startswith(f"{path}: row 0 ") and sentence.isprintable()


@pytest.mark.parametrize("field", ["us", "config", "baselines", "other", "case"])
def test_a_number_beyond_all_floats_costs_no_other_row(tmp_path, field):
    """JSON allows 1e999, and Python reads an infinity, which no JSON can hold again."""
    value = '{"a": 1e999}' if field in ("config", "baselines", "case") else "1e999"
    odd = {"case": {"k": 4096, "num_tokens": 9}, "config": {"a": 1}, field: "value"}
    text = json.dumps([odd, SOUND]).replace('"value"', value).encode()
    path = put(tmp_path, text)
    table = ConfigTable("quant", folders=[tmp_path])
    assert table.pick(ASKED, H200).config == {"name": "sound"}
    for n in (1, 2):
        table.add([row(n)], H200)
    assert numbers(tmp_path) == [1, 2, 8]
    (aside,) = path.parent.glob("nvidia_h200.json.damaged-*")
    assert aside.read_bytes() == text


def test_rows_of_any_depth_are_read_and_written(tmp_path):
    """Between a depth that JSON's reader gives up at and one that is harmless, Python's recursion limit may end anything."""
    for depth in (50, *range(sys.getrecursionlimit() - 120, sys.getrecursionlimit() + 10, 5), 100_000):
        nested = "[" * depth + "]" * depth
        rows = (f'{{"case": {nested}}}', nested, f'{{"case": {{"k": 1, "num_tokens": 3}}, "config": {{"a": {nested}}}}}')
        put(tmp_path, f"[{', '.join(rows)}, {json.dumps(SOUND)}]".encode())
        table = ConfigTable("quant", folders=[tmp_path])
        assert table.pick(ASKED, H200).config in ({"name": "sound"}, None)
        for found in table.rows(H200):
            table.mark_broken(found, "it was tried")
        assert table.pick(Case(k=1, num_tokens=3), H200).origin == "default"
        table.add([row(1)], H200)
        assert 1 in numbers(tmp_path)


def test_many_rows_are_read_and_written_fast(tmp_path):
    """20 000 rows took 4 s of a pick and 8 s of an add; each pair of twins was a sentence of its own."""
    put(tmp_path, [{**SOUND, "case": {"k": 128 * (n % 200), "num_tokens": n // 200 + 1}} for n in range(4_000)] + [SOUND] * 9)
    table = ConfigTable("quant", folders=[tmp_path])
    compared = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Case, "__lt__", lambda one, other: compared.append(one) or NotImplemented)
        assert table.pick(Case(k=128, num_tokens=7), H200).origin == "exact"
        table.add([row(1)], H200)
    assert len(table.rows(H200)) == 4_010 and not compared and len(table.problems) <= 2


def test_many_damaged_rows_still_make_one_sentence(tmp_path, caplog):
    put(tmp_path / "own", [7] * 50 + [SOUND])
    pick_with_shipped(tmp_path / "own", tmp_path / "shipped")
    (sentence,) = caplog.messages
    assert "(and 49 more rows like it)" in sentence


def test_an_unknown_field_is_told_kept_and_harmless(tmp_path, caplog):
    path = put(tmp_path / "own", [{**SOUND, "spills": 3}])
    table, pick = pick_with_shipped(tmp_path / "own", tmp_path / "shipped")
    assert pick.config == {"name": "sound"}
    assert caplog.messages == [f"{path}: row 0 has 'spills', which this version does not know; used without it"]
    table.add([row(1)], H200)
    assert {"spills": 3}.items() <= json.loads(path.read_text())[1].items()


def test_a_config_for_another_kernel_is_skipped(tmp_path, caplog):
    put(tmp_path / "own", [{**SOUND, "made_with": {"kernel": "scaled_mm@77"}}])
    _, pick = pick_with_shipped(tmp_path / "own", tmp_path / "shipped")
    assert pick.config == {"name": "shipped"}
    assert "1 of 1 rows were made by another version of quant (row 0: 'scaled_mm@77', now: v1)" in caplog.text


def test_the_older_word_for_a_fallback_is_read_and_written_as_the_new_one(tmp_path):
    path = put(tmp_path, [{**SOUND, "config": {"alternative": "library"}}])
    table = ConfigTable("quant", folders=[tmp_path], kernel_fingerprint="v1")
    assert table.pick(ASKED, H200).config == {"fallback": "library"}
    table.add([row(1)], H200)
    assert "alternative" not in path.read_text()


def test_of_two_rows_for_one_case_the_faster_is_used_and_both_are_named(tmp_path, caplog):
    path = put(tmp_path / "own", [{**SOUND, "us": 3}, {**SOUND, "us": 2, "config": {"name": "faster"}}])
    _, pick = pick_with_shipped(tmp_path / "own", tmp_path / "shipped")
    assert pick.config == {"name": "faster"}
    assert [f"{path}: rows 0 and 1 are both for (k=4096 num_tokens=8)" in text for text in caplog.messages] == [True]


def test_things_that_are_no_files_are_passed_over(tmp_path):
    kernel = tmp_path / "own" / "quant"
    (kernel / "nvidia_h200.json").mkdir(parents=True)
    os.mkfifo(kernel / "nvidia_h100.json")  # reading it would wait for a writer for ever
    (kernel / "nvidia_gh200.json").symlink_to(tmp_path / "nowhere")
    assert pick_with_shipped(tmp_path / "own", tmp_path / "shipped")[1].config == {"name": "shipped"}


def test_a_table_too_large_to_be_one_is_not_read(tmp_path, caplog):
    path = put(tmp_path / "own", b"")
    os.truncate(path, 2**40)  # sparse
    assert pick_with_shipped(tmp_path / "own", tmp_path / "shipped")[1].config == {"name": "shipped"}
    assert "it is larger than 64 MiB" in caplog.text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
fields = ("case", "config", "us", "baselines", "made_with", "other")
odd_rows = st.dictionaries(st.sampled_from(fields), json_values | st.just({"k": 1, "num_tokens": 2}), max_size=6)


@given(st.lists(odd_rows | json_values, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
def test_no_content_makes_a_pick_or_an_add_fail(tmp_path, entries):
    put(tmp_path, entries)
    table = ConfigTable("quant", folders=[tmp_path], kernel_fingerprint="v1")
    for gpu in (H200, Gpu("NVIDIA H100", (9, 0))):
        for n in (1, 2, 3):
            assert table.pick(Case(k=1, num_tokens=n), gpu).sentence
    before = [found for found in table.rows(H200) if found.case != ASKED]
    table.add([row(8)], H200)
    assert all(any(a.to_json() == b.to_json() for b in table.rows(H200)) for a in before)


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_rows_for_one_case_the_timed_one_counts(tmp_path, order):
    untimed, timed = {**SOUND, "config": {"name": "untimed"}}, {**SOUND, "config": {"name": "timed"}, "us": 1e9}
    put(tmp_path, [untimed, timed][::order])
    table = ConfigTable("quant", folders=[tmp_path])
    assert table.pick(ASKED, H200).config["name"] == "timed"
