# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helion_compile.configs.files import user_folder
from helion_compile.configs.lookup import CaseIndex
from helion_compile.configs.table import Case, ConfigError, ConfigTable, Gpu, Row

H200 = Gpu("NVIDIA H200", (9, 0))
H100 = Gpu("NVIDIA H100 80GB HBM3", (9, 0))
B200 = Gpu("NVIDIA B200", (10, 0))


def row(name=None, *, us=None, kernel="v1", **facts):
    """A row whose config tells which one it is."""
    made_with = {} if kernel is None else {"kernel": kernel}
    return Row(Case(**facts), {"name": name or str(Case(**facts))}, us=us, made_with=made_with)


@pytest.fixture
def folders(tmp_path):
    return [tmp_path / "own", tmp_path / "shipped"]


def table(folders, **options):
    options.setdefault("kernel_fingerprint", "v1")
    return ConfigTable("norm_quant", folders=folders, **options)


def fill(folder, rows, gpu=H200, **options):
    table([folder], **options).add(rows, gpu)


def name_of(pick):
    return pick.config["name"]


# --- the order of preference ------------------------------------------------------------------------------------------


def test_an_exact_case_comes_first(folders):
    fill(folders[0], [row(k=4096, num_tokens=n) for n in (1, 16, 17, 32)])
    pick = table(folders).pick(Case(k=4096, num_tokens=17), H200)
    assert pick.origin == "exact" and pick.row.case == Case(k=4096, num_tokens=17)
    assert pick.sentence.startswith("measured for (k=4096 num_tokens=17): row 2 of ")


def test_then_the_next_larger_token_count_even_where_a_smaller_one_is_nearer(folders):
    fill(folders[0], [row(k=4096, num_tokens=n) for n in (1, 16, 1024)])
    pick = table(folders).pick(Case(k=4096, num_tokens=17), H200)
    assert pick.origin == "bucketed" and pick.row.case["num_tokens"] == 1024
    assert "rounded up to (k=4096 num_tokens=1024)" in pick.sentence


def test_then_the_nearest_case(folders):
    fill(folders[0], [row(k=k, num_tokens=n) for k in (2048, 8192) for n in (8, 64)])
    picks = table(folders)
    beyond = picks.pick(Case(k=2048, num_tokens=65), H200)
    assert beyond.origin == "nearest" and beyond.row.case == Case(k=2048, num_tokens=64)
    # 5120 is nearer to 2048 by difference and to 8192 by ratio, and cost goes by ratio.
    between = picks.pick(Case(k=5120, num_tokens=9), H200)
    assert between.origin == "nearest" and between.row.case == Case(k=8192, num_tokens=64)


def test_a_fact_that_is_no_number_must_match(folders):
    fill(folders[0], [row(k=4096, num_tokens=8, dtype="fp32"), row(k=4096, num_tokens=8, dtype="bf16", bias=True)])
    pick = table(folders).pick(Case(k=4096, num_tokens=8, dtype="bf16"), H200)
    assert pick == (None, "default", None, Case(k=4096, num_tokens=8, dtype="bf16"), H200, None)
    assert pick.sentence.endswith("on NVIDIA H200: Helion's default config")


def test_the_nearest_case_differs_in_nothing_that_may_not(folders):
    fill(folders[0], [row(k=k, n=n, num_tokens=8) for k, n in ((2048, 64), (8192, 64), (4096, 1024))])
    asked = Case(k=4096, n=64, num_tokens=8)

    def pick(nearest):
        return ConfigTable("norm_quant", folders=folders, nearest=nearest).pick(asked, H200)

    assert [pick(nearest).row.case["n"] for nearest in (None, ("k", "n"), ("k",))] == [64, 64, 64]
    assert pick(("n",)).row.case == Case(k=4096, n=1024, num_tokens=8) and pick(("n",)).origin == "nearest"
    assert pick(()).origin == "default"
    # More tokens than any row has are no other size.
    alike = asked.replace(k=2048, num_tokens=16)
    found = ConfigTable("norm_quant", folders=folders, nearest=()).pick(alike, H200)
    assert found.origin == "nearest" and found.row.case == alike.replace(num_tokens=8)


def test_then_the_row_of_the_default_case(folders):
    fill(folders[0], [row("any"), row(k=4096, num_tokens=8, dtype="fp32")])
    pick = table(folders).pick(Case(k=4096, num_tokens=8, dtype="bf16"), H200)
    assert name_of(pick) == "any" and pick.origin == "default-case"


def test_then_a_gpu_of_the_same_architecture(folders):
    fill(folders[0], [row("h200", k=4096, num_tokens=8)], H200)
    fill(folders[0], [row("b200", k=4096, num_tokens=8)], B200)
    fill(folders[0], [row("unheard of", k=2048, num_tokens=8)], Gpu("NVIDIA Z900", (9, 0)))
    pick = table(folders).pick(Case(k=4096, num_tokens=8), H100)
    assert name_of(pick) == "h200" and pick.other_gpu and "measured on nvidia_h200, also sm_90" in pick.sentence
    assert name_of(table(folders).pick(Case(k=4096, num_tokens=8), Gpu("NVIDIA B300", (10, 0)))) == "b200"
    assert table(folders).pick(Case(k=4096, num_tokens=8), Gpu("NVIDIA A100", (8, 0))).origin == "default"
    # An MI250 has capability 9.0 too.
    assert table(folders).pick(Case(k=4096, num_tokens=8), Gpu("AMD MI250", (9, 0), "amd")).origin == "default"


def test_the_own_gpu_comes_before_a_better_match_on_another(folders):
    fill(folders[0], [row("h200", k=4096, num_tokens=8)], H200)
    fill(folders[0], [row("h100", k=2048, num_tokens=8)], H100)
    assert name_of(table(folders).pick(Case(k=4096, num_tokens=8), H100)) == "h100"


def test_among_other_gpus_the_likest_name_comes_first(folders):
    fill(folders[0], [row("h200", k=4096, num_tokens=8)], H200)
    fill(folders[0], [row("pcie", k=4096, num_tokens=8)], Gpu("NVIDIA H100 PCIe", (9, 0)))
    assert name_of(table(folders).pick(Case(k=4096, num_tokens=8), H100)) == "pcie"
    assert name_of(table(folders).pick(Case(k=4096, num_tokens=8), Gpu("NVIDIA H200 NVL", (9, 0)))) == "h200"


def test_a_table_that_names_no_architecture_is_placed_by_its_name(folders):
    kernel = folders[0] / "norm_quant"
    kernel.mkdir(parents=True)
    (kernel / "nvidia_h100.json").write_text('[{"case": {"k": 4096, "num_tokens": 8}, "config": {"name": "foreign"}}]')
    pick = table(folders).pick(Case(k=4096, num_tokens=8), H200)
    assert name_of(pick) == "foreign" and "for a kernel version that the table does not name" in pick.sentence


def test_the_kernels_own_default_comes_before_helions(folders):
    default = {4096: {"num_warps": 8}}
    picks = table(folders, default=lambda case: default.get(case["k"]))
    assert picks.pick(Case(k=4096), H200).config == {"num_warps": 8}
    assert "the kernel's own default config" in picks.pick(Case(k=4096), H200).sentence
    assert picks.pick(Case(k=1), H200).config is None


def test_the_users_row_comes_before_the_shipped_one_and_hides_no_other(folders):
    fill(folders[1], [row("shipped 8", k=4096, num_tokens=8), row("shipped 16", k=4096, num_tokens=16)])
    fill(folders[0], [row("own 8", k=4096, num_tokens=8), row("own 64", k=4096, num_tokens=64)])
    picks = table(folders)
    answers = {n: name_of(picks.pick(Case(k=4096, num_tokens=n), H200)) for n in (5, 8, 9, 17)}
    assert answers == {5: "own 8", 8: "own 8", 9: "shipped 16", 17: "own 64"}


def test_with_two_rounded_facts_the_row_must_be_larger_in_both(folders):
    fill(folders[0], [row(batch=b, num_tokens=n) for b, n in ((1, 64), (4, 4), (4, 64), (8, 8))])
    picks = table(folders, bucketed=("batch", "num_tokens"))
    assert picks.pick(Case(batch=2, num_tokens=5), H200).row.case == Case(batch=8, num_tokens=8)
    assert picks.pick(Case(batch=9, num_tokens=60), H200).origin == "nearest"


sizes = st.integers(1, 10_000)
known = st.builds(Case, k=st.sampled_from([1024, 4096, 5120]), num_tokens=sizes)


@given(st.lists(known, max_size=30), known)
def test_look_up_agrees_with_reading_all_rows(have, asked):
    found = CaseIndex([Row(case, {"a": 1}) for case in have], ("num_tokens",)).find(asked)
    larger = [c for c in have if c["k"] == asked["k"] and c["num_tokens"] >= asked["num_tokens"]]
    if not have:
        assert found is None
    elif larger:
        expected = min(larger, key=lambda case: case["num_tokens"])
        assert found[0].case == expected and found[1] == ("exact" if expected == asked else "bucketed")
    else:
        assert found[1] == "nearest"
        same = [case for case in have if case["k"] == asked["k"]]
        if same:
            assert found[0].case == max(same)


# --- rows that cannot be used -----------------------------------------------------------------------------------------


def test_rows_of_another_kernel_version_are_skipped_with_one_warning(folders, caplog):
    fill(
        folders[0],
        [row("old", k=4096, num_tokens=n, kernel="v0") for n in (1, 2, 4)] + [row("new", k=4096, num_tokens=8)],
    )
    picks = table(folders)
    assert {name_of(picks.pick(Case(k=4096, num_tokens=n), H200)) for n in (1, 2, 3, 4)} == {"new"}
    assert len(caplog.messages) == 1 == len(picks.problems)
    assert "3 of 4 rows were made by another version of norm_quant (row 0: 'v0', now: v1)" in caplog.text


def test_several_versions_can_share_their_configs(folders, caplog):
    fill(folders[0], [row("old", k=4096, num_tokens=1, kernel="v0")])
    assert name_of(table(folders, kernel_fingerprint={"v0", "v1"}).pick(Case(k=4096, num_tokens=1), H200)) == "old"
    assert not caplog.messages


def test_tables_of_another_architecture_cause_no_warning(folders, caplog):
    fill(folders[0], [row(k=4096, num_tokens=1, kernel="v0")], B200)
    table(folders).pick(Case(k=4096, num_tokens=1), H200)
    assert not caplog.messages


def test_a_row_of_unknown_version_counts_after_one_of_this_version(folders):
    fill(folders[0], [row("unknown", k=4096, num_tokens=8, kernel=None)])
    fill(folders[1], [row("known", k=4096, num_tokens=8)])
    assert name_of(table(folders).pick(Case(k=4096, num_tokens=8), H200)) == "known"


def test_a_broken_row_is_skipped_with_one_warning_and_the_next_is_used(folders, caplog):
    fill(folders[0], [row(k=4096, num_tokens=n) for n in (8, 16)])
    picks = table(folders)
    first = picks.pick(Case(k=4096, num_tokens=5), H200)
    picks.mark_broken(first.row, "OutOfResources: shared memory,\nRequired: 300000")
    picks.mark_broken(first.row, "again")
    assert picks.pick(Case(k=4096, num_tokens=5), H200).row.case["num_tokens"] == 16
    assert len(caplog.messages) == 1
    assert "(k=4096 num_tokens=8) of norm_quant is skipped, row 0 of" in caplog.messages[0]
    assert caplog.messages[0].endswith("OutOfResources: shared memory, Required: 300000")
    picks.reload()
    assert picks.pick(Case(k=4096, num_tokens=5), H200).row.case["num_tokens"] == 16


def test_when_every_row_is_broken_the_default_remains(folders):
    fill(folders[0], [row(k=4096, num_tokens=n) for n in (8, 16)])
    picks = table(folders)
    while (pick := picks.pick(Case(k=4096, num_tokens=5), H200)).row:
        picks.mark_broken(pick.row, "does not compile")
    assert pick.origin == "default"


# --- the digest for compile caches ------------------------------------------------------------------------------------


def test_fingerprint_follows_the_content_and_nothing_else(folders, tmp_path):
    fill(folders[0], [row(k=4096, num_tokens=8)])
    fill(tmp_path / "elsewhere", [row(k=4096, num_tokens=8)])
    one = table(folders).fingerprint()
    program = (
        "import sys; from helion_compile.configs.table import ConfigTable;"
        "print(ConfigTable('norm_quant', folders=sys.argv[1:]).fingerprint())"
    )
    env = {**os.environ, "PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "3"}
    command = [sys.executable, "-c", program, str(tmp_path / "elsewhere")]
    assert subprocess.run(command, env=env, capture_output=True, text=True).stdout.strip() == one
    fill(folders[0], [row("retuned", k=4096, num_tokens=8)])
    retuned = table(folders).fingerprint()
    fill(folders[0], [row("retuned", k=4096, num_tokens=8)], H100)
    assert len({one, retuned, table(folders).fingerprint(), table([tmp_path / "none"]).fingerprint()}) == 4


def test_adding_rows_shows_in_the_same_table_at_once(folders):
    picks = table(folders)
    before = picks.fingerprint()
    assert picks.pick(Case(k=4096, num_tokens=8), H200).origin == "default"
    picks.add([row(k=4096, num_tokens=8)], H200)
    assert picks.pick(Case(k=4096, num_tokens=8), H200).origin == "exact"
    assert picks.fingerprint() != before


# --- writing ----------------------------------------------------------------------------------------------------------


def test_a_row_comes_back_as_it_was_with_the_gpu_added(folders):
    given = Row(Case(k=4096), {"block_sizes": [1, None]}, 2.5, {"inductor": 3.0}, {"kernel": "v1", "helion": "1.4.0"})
    path = table(folders).add([given], H200)
    assert path == folders[0] / "norm_quant" / "nvidia_h200.json"
    (read,) = table(folders).rows(H200)
    assert read.made_with == {"gpu": "NVIDIA H200", "arch": "sm_90", **given.made_with}
    assert (read.case, read.config, read.us, read.baselines) == (given.case, given.config, given.us, given.baselines)


def test_a_row_replaces_the_same_case_of_the_same_version_only(folders):
    fill(folders[0], [row("v0", k=1, num_tokens=8, kernel="v0"), row("v1", k=1, num_tokens=8), row(k=2, num_tokens=8)])
    path = table(folders).add([row("new", k=1, num_tokens=8)], H200)
    names = [entry["config"]["name"] for entry in json.loads(path.read_text())]
    assert names == ["v0", "new", "k=2 num_tokens=8"]


def test_a_row_that_json_cannot_hold_changes_nothing(folders):
    fill(folders[0], [row(k=1)])
    before = (folders[0] / "norm_quant" / "nvidia_h200.json").read_bytes()
    for config in ({"a": {1, 2}}, {"a": float("nan")}, {}):
        with pytest.raises(ConfigError, match="nothing was added for norm_quant: row 1 of those given "):
            table(folders).add([row(k=2), Row(Case(k=3), config)], H200)
    assert (folders[0] / "norm_quant" / "nvidia_h200.json").read_bytes() == before


def test_the_users_folder_is_read_from_the_environment_when_needed(monkeypatch, tmp_path):
    picks = ConfigTable("norm_quant")
    monkeypatch.setenv("HELION_COMPILE_CONFIG_DIR", str(tmp_path))
    assert picks.add([row(k=1)], H200).is_relative_to(tmp_path)
    monkeypatch.delenv("HELION_COMPILE_CONFIG_DIR")
    assert user_folder().name == "configs" and "helion_compile" in str(user_folder())


@pytest.mark.parametrize("kernel", ["../x", "/etc/x", "a/b", "", ".", "..", "a b", "a\0b", "é", "x" * 101, "a\n"])
def test_a_kernel_name_is_never_a_path(kernel):
    with pytest.raises(ConfigError, match="identifier like norm_quant"):
        ConfigTable(kernel)


def test_a_gpu_name_with_a_path_in_it_stays_in_the_folder(folders):
    path = table(folders).add([row(k=1)], Gpu("../../../etc/NVIDIA H200", (9, 0)))
    assert path.parent == folders[0] / "norm_quant" and path.name == "etc_nvidia_h200.json"


def test_memory_stays_bounded_over_every_token_count(folders):
    fill(folders[0], [row(k=4096, num_tokens=2**n) for n in range(14)])
    picks = table(folders)
    picks.pick(Case(k=4096, num_tokens=1), H200)
    tracemalloc.start()
    try:
        grown = []
        for n in range(1, 20_001):
            picks.pick(Case(k=4096, num_tokens=n), H200)
            if n % 5000 == 0:
                grown.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # All that is kept is full after 1024 picks; 10 % is for dicts that were caught before and after they grow.
    assert max(grown) < 1.1 * 4 * 2**20
    assert grown[-1] < 1.1 * max(grown[:2])


def test_the_config_of_the_nearest_row_is_adapted_and_no_other(folders):
    fill(folders[0], [row("as measured", k=4096, num_tokens=1)])
    picks = table(folders, adapt=lambda config, measured, asked: {"name": f"{measured['k']} for {asked['k']}"})
    near = picks.pick(Case(k=8192, num_tokens=1), H200)
    assert (name_of(near), near.origin) == ("4096 for 8192", "nearest")
    assert near.sentence.startswith("nearest measured case is (k=4096 num_tokens=1), adapted: row 0")
    assert name_of(picks.pick(Case(k=4096, num_tokens=1), H200)) == "as measured"
