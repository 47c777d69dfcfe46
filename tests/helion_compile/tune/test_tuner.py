# SPDX-License-Identifier: Apache-2.0
"""The tuner as a whole, on a GPU and a compiler that are not there (tune_fakes): 8 warps and a persistent grid are best."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest

from helion_compile.configs.case import Case
from helion_compile.configs.files import kernel_folder
from helion_compile.definitions import registry
from helion_compile.tune import __main__ as command
from helion_compile.tune.tuner import share
from tests.support import ROOT, tune_fakes

BEST = {"block_sizes": [1], "num_warps": 8, "pid_type": "persistent_interleaved"}
USUAL = [
    ("modulated_norm_quant", "hidden_size", {1536, 2048, 3072, 5120}),
    ("concat_activation_quant", "front_size", {3072, 6144}),
    ("norm_rope", "num_heads", {12, 24, 40}),
]


class Folder:
    """Where one test's tables, journal and log of measurements lie."""

    def __init__(self, path, monkeypatch, capsys):
        self.path = path
        self.log = path / "log"
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def arguments(self, options, kernel="plus_one"):
        return [kernel, "--out", str(self.path / "out"), "--journal", str(self.path / "journal"), *options]

    def start(self, *options, launcher=(), **environment):
        """The command in a process of its own."""
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "FAKE_LOG": str(self.log), "COLUMNS": "200", **environment}
        command = [sys.executable, *launcher, "-m", "tests.support.tune_fakes", *self.arguments(options)]
        return subprocess.Popen(
            command, env=variables, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=_heeds_ctrl_c
        )

    def tune(self, *options, kernel="plus_one", **environment):
        """Runs the command to the end; what it said, and the exit code.  Only the workers are processes of their own."""
        environment = {"FAKE_LOG": str(self.log), **environment}
        settings = command._settings
        with self.monkeypatch.context() as patch:
            patch.setenv("COLUMNS", "200")
            patch.setattr(command, "_check_gpu", lambda: None)
            patch.setattr(
                command,
                "_settings",
                lambda options: tune_fakes.with_fakes(settings(options), environment, environment=environment),
            )
            code = command.main(self.arguments(options, kernel))
        return self.capsys.readouterr().err, code

    @property
    def rows(self):
        return self.rows_of("plus_one")

    def rows_of(self, kernel):
        table = kernel_folder(self.path / "out", registry.get_kernel(kernel).name) / "nvidia_h200.json"
        return {Case.from_json(row["case"]): row for row in json.loads(table.read_text())}

    def measured(self):
        """How often each config was timed in the search for each case, final checks apart."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return Counter(line for line in lines if line.startswith("False"))

    def wait_for(self, lines):
        deadline = time.monotonic() + 100
        while sum(self.measured().values()) < lines:
            assert time.monotonic() < deadline, "it measures nothing"
            time.sleep(0.02)


def _heeds_ctrl_c():
    """In the child: a shell starts what it puts in the background with Ctrl-C ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def folder(tmp_path, monkeypatch, capsys):
    return Folder(tmp_path, monkeypatch, capsys)


def case(tokens, size=4096):
    return Case(dtype="bf16", hidden_size=size, num_tokens=tokens)


def test_it_finds_the_best_config_and_says_all_of_it(folder):
    said, code = folder.tune("--shapes", "hidden_size=4096", "--tokens", "1,16")
    assert code == 0 and "2 rows" in said
    assert set(folder.rows) == {case(1), case(16)}
    for one, row in folder.rows.items():
        assert row["config"] == BEST
        assert row["us"] == pytest.approx(tune_fakes.us_of(BEST, one), abs=1e-3)
        assert row["baselines"] == {"inductor": 7.0}
        assert row["made_with"] | {"date": ""} == {
            "gpu": "NVIDIA H200",
            "arch": "sm_90",
            "kernel": tune_fakes.plus_one.config_fingerprint,
            **tune_fakes.GPU["versions"],
            "date": "",
            "spills": 0,
        }


def test_what_was_tuned_is_not_measured_again(folder):
    options = ("--shapes", "hidden_size=4096", "--tokens", "1")
    folder.tune(*options, "--quick")
    before, rows = folder.log.read_text(), folder.rows
    (journal,) = (folder.path / "journal").glob("*.jsonl")
    today = f'"date": "{rows[case(1)]["made_with"]["date"]}"'
    assert journal.read_text().count(today) == 1
    journal.write_text(journal.read_text().replace(today, '"date": "2001-02-03"'))
    said, code = folder.tune(*options, "--quick")
    assert code == 0 and "1 of 1 cases were tuned before" in said
    rows[case(1)]["made_with"]["date"] = "2001-02-03"
    assert folder.log.read_text() == before and folder.rows == rows
    # One round of steps changes the warps once; more of them go on from there.
    quickly = folder.measured()
    said, code = folder.tune(*options, "--full")
    assert code == 0 and "tuned before" not in said and folder.rows[case(1)]["config"] == BEST
    assert max(folder.measured().values()) == 1 and sum(folder.measured().values()) > sum(quickly.values())


def test_a_config_that_kills_the_process_costs_one_process(folder):
    said, code = folder.tune("--shapes", "hidden_size=4096", "--tokens", "1,16", FAKE_CRASH="2")
    assert code == 0 and {row["config"]["num_warps"] for row in folder.rows.values()} == {8}
    lines = [json.loads(line) for line in next((folder.path / "journal").glob("*.jsonl")).read_text().split("\n") if line]
    crashed = [line for line in lines if "SIGSEGV" in str(line.get("error"))]
    assert {line["config"]["num_warps"] for line in crashed} == {2}
    timed = [line for line in folder.measured().elements() if '"num_warps":2' in line]
    assert len(timed) == len({line.split(" {")[1] for line in timed}), "a deadly config was tried on a second case"


def test_the_fastest_does_not_win_with_a_wrong_result(folder):
    _, code = folder.tune("--shapes", "hidden_size=4096", "--tokens", "16", FAKE_WRONG="8")
    assert code == 0
    assert folder.rows[case(16)]["config"]["num_warps"] in (4, 16)


def test_a_case_without_any_right_config_gets_no_row(folder):
    said, code = folder.tune("--shapes", "hidden_size=4096", "--tokens", "1", FAKE_CRASH="4")
    assert code == 1 and "(dtype=bf16 hidden_size=4096 num_tokens=1) has no config" in said
    assert not (folder.path / "out").exists()


@pytest.mark.parametrize("after", [pytest.param(2, marks=pytest.mark.slow), 9])
def test_killed_at_any_moment_it_continues(folder, after):
    options = ("--shapes", "hidden_size=4096", "--tokens", "1,2,4,8")
    process = folder.start(*options, FAKE_SECONDS="0.1")
    folder.wait_for(after)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    measured = folder.measured()
    time.sleep(0.5)
    assert folder.measured() == measured, "a worker goes on without its parent"
    _, code = folder.tune(*options)
    assert code == 0 and {row["config"]["num_warps"] for row in folder.rows.values()} == {8}
    again = folder.measured() - Counter(set(folder.measured()))
    assert sum(again.values()) <= 1, "more was lost than what was being measured"


def test_ctrl_c_is_one_sentence_and_it_continues(folder):
    options = ("--shapes", "hidden_size=4096", "--shapes", "hidden_size=2048", "--tokens", "1,2,4")
    process = folder.start(*options, FAKE_SECONDS="0.1")
    folder.wait_for(5)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to parent and workers alike
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "same command continues" in said and "Traceback" not in said, said
    before = sum(folder.measured().values())
    _, code = folder.tune(*options)
    assert code == 0 and len(folder.rows) == 6
    again = folder.measured() - Counter(set(folder.measured()))
    assert before >= 5 and sum(again.values()) <= 1


def test_when_time_is_up_the_rest_waits_for_the_next_run(folder):
    shapes = [part for size in (64, 128, 256, 512, 1024, 2048) for part in ("--shapes", f"hidden_size={size}")]
    said, code = folder.tune(*shapes, "--tokens", "1", "--budget", "1s", FAKE_SECONDS="0.2")
    assert code == 1 and "not begun for lack of time" in said
    said, code = folder.tune(*shapes, "--tokens", "1")
    assert code == 0 and len(folder.rows) == 6


@pytest.mark.slow
def test_torchrun_shares_the_cases_out_and_fills_one_table(folder):
    options = ("--shapes", "hidden_size=4096", "--shapes", "hidden_size=2048", "--tokens", "1,2,4")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = folder.start(*options, launcher=torchrun, FAKE_SECONDS="0.02")
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert set(folder.rows) == {case(tokens, size) for tokens in (1, 2, 4) for size in (4096, 2048)}
    assert all(row["config"] == BEST for row in folder.rows.values())
    assert max(folder.measured().values()) == 1, "two ranks measured one case"
    assert len(list((folder.path / "journal").glob("*.jsonl"))) == 2


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 50])
def test_every_case_has_one_rank(ranks):
    work = [(tune_fakes.plus_one, case(tokens, size)) for size in (64, 128, 256) for tokens in (1, 2, 4, 8, 16)]
    bucketed = {tune_fakes.plus_one.short_name: ("num_tokens",)}
    given = [one for rank in range(ranks) for _, group in share(work, bucketed, rank, ranks) for one in group]
    assert sorted(given) == sorted(one for _, one in work)


def test_each_rank_has_its_gpu_and_each_effort_its_rounds(monkeypatch):
    given = []
    monkeypatch.setattr(command, "_work", lambda options: given.append(options) or [])

    def settings(*options, **environment):
        assert command.main(["quant", "--shapes", "hidden_size=64", "--dry-run", *options]) == 0
        return command._settings(given[-1], environment)

    def gpu_of(**environment):
        return settings(**environment).environment

    assert gpu_of() == {} and gpu_of(LOCAL_RANK="3") == {"CUDA_VISIBLE_DEVICES": "3"}
    assert gpu_of(LOCAL_RANK="1", CUDA_VISIBLE_DEVICES="4,6") == {"CUDA_VISIBLE_DEVICES": "6"}
    ranks = settings(RANK="9", WORLD_SIZE="16", LOCAL_WORLD_SIZE="8")
    assert (ranks.rank, ranks.ranks, ranks.local_ranks) == (9, 16, 8)
    assert [settings(*option).effort for option in ((), ("--quick",), ("--full",))] == ["normal", "quick", "full"]
    assert [settings("--budget", text).budget for text in ("90s", "10m", "1.5h", "175", "0.5")] == [90, 600, 5400, 175, 0.5]
    bad = ("--quick", "--full"), ("--budget", "10d"), ("--budget", "-10"), ("--processes", "-1"), ("--compare-autotune", "-1")
    for options in (*bad, ("--dtype", "fp8")):
        with pytest.raises(SystemExit):
            settings(*options)


@pytest.mark.parametrize(
    "options, sentence",
    [
        (("--modules", "nosuch.kernels"), "--modules names 'nosuch.kernels', and No module named 'nosuch'; name it as"),
        (("--shapes", "hidden_size=abc"), "quant has no case (dtype=bf16 hidden_size=abc num_tokens=1): TypeError: "),
        (("--shapes", "hidden_size=[1]"), "--shapes names no case: the key field hidden_size is [1] (list), and a case holds"),
        (("--shapes", "hidden-size=1"), "--shapes names no case: a key field is named by an identifier"),
    ],
)
def test_what_cannot_be_tuned_is_a_sentence(capsys, options, sentence):
    shapes = () if "--shapes" in options else ("--shapes", "hidden_size=64")
    assert command.main(["quant", "--tokens", "1", "--dry-run", *shapes, *options]) == 1
    assert capsys.readouterr().err.startswith(f"tune: {sentence}")


def test_a_module_that_lacks_another_says_so_itself(tmp_path, monkeypatch):
    (tmp_path / "lacking_kernels.py").write_text("import nosuch\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="nosuch"):
        command.main(["quant", "--shapes", "hidden_size=64", "--dry-run", "--modules", "lacking_kernels"])


def test_a_kernel_named_twice_is_tuned_once(capsys):
    assert command.main(["quant", "quant", "--shapes", "hidden_size=64", "--tokens", "1", "--dry-run"]) == 0
    assert capsys.readouterr().out == "quant dtype=bf16 hidden_size=64 num_tokens=1\n"


@pytest.mark.parametrize("name, field, sizes", USUAL)
def test_a_kernel_of_diffusion_models_brings_its_own_shapes_and_tokens(capsys, name, field, sizes):
    assert command.main([name, "--dry-run"]) == 0
    cases = [dict(word.split("=") for word in line.split()[1:]) for line in capsys.readouterr().out.splitlines()]
    assert {int(case[field]) for case in cases} == sizes
    assert {1024, 4096, 32760} < {int(case["num_tokens"]) for case in cases}
    assert command.main([name, "--dry-run", "--tokens", "16"]) == 0
    assert {word for word in capsys.readouterr().out.split() if "num_tokens" in word} == {"num_tokens=16"}


def test_a_kernel_without_shapes_of_its_own_asks_for_some(capsys):
    assert command.main(["quant", "--dry-run"]) == 1
    assert capsys.readouterr().err.startswith("tune: no shapes were given, and quant names none; name a model's config.json")


def test_a_model_without_shapes_for_the_kernel_is_a_sentence(tmp_path, capsys, monkeypatch):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 1}))
    monkeypatch.setattr(tune_fakes.plus_one, "tuning", replace(tune_fakes.plus_one.tuning, shapes=lambda layer: []))
    assert command.main(["plus_one", "--model", str(file), "--dry-run"]) == 1
    assert "tune: plus_one takes none of the model's shapes; name some by hand with --shapes" in capsys.readouterr().err


def test_a_kernel_names_its_candidates_and_a_fallback_can_win(folder):
    shape = ("--shapes", "hidden_size=64", "--tokens", "16,1024,4096,8192")
    assert folder.tune(*shape, kernel="plus_one_or_library")[1] == 0
    rows = {case["num_tokens"]: row for case, row in folder.rows_of("plus_one_or_library").items()}
    assert {tokens: row["config"].get("fallback") for tokens, row in rows.items()} == {
        16: None,
        1024: None,
        4096: "library",
        8192: "library",
    }
    assert rows[16]["config"] == {"block_sizes": [1], "num_warps": 8}
    assert [row["us"] for row in rows.values()] == [4.516, 5.524, 6.0, 6.0]
    assert rows[4096]["baselines"] == {"kernel": 8.596, "library": 6.0} and rows[8192]["baselines"] == {"library": 6.0}
    # What was not asked for was not tried: three configs a case, and no steps from them. The slowest, of two warps, took more
    # than 1.3 times the best of the case that tried it first, and no other case tried it.
    tried = Counter(line.rpartition(" ")[2] for line in folder.measured())
    assert sorted(tried.values()) == [1, 3, 3]
    assert [count for config, count in tried.items() if '"num_warps":2' in config] == [1]
    # The same command finds nothing left to do: no case waits for an Inductor baseline.
    assert "4 of 4 cases were tuned before" in folder.tune(*shape, kernel="plus_one_or_library")[0]


def test_winners_are_compared_with_helion_s_own_autotuner(folder):
    file = folder.path / "compared.json"
    options = ("--compare-autotune", "8", "--autotune-budget", "5s", "--compare-json", str(file))
    said, code = folder.tune("--shapes", "hidden_size=4096", "--tokens", "1,16", *options)
    assert code == 1, "one case was not compared"
    assert "2 cases, each searched by Helion's full autotune for up to 5 s" in said
    assert "4.00 µs, Helion's 4.50 µs" in said and "not compared; it found nothing in 5 s" in said
    # 4.001 against 4.501 µs
    assert "1 of 2 cases compared with Helion's full autotune: 0.889 times its time" in said and "1 within 3%" in said
    written = [(each["case"]["num_tokens"], each["ours"], each["ratio"]) for each in json.loads(file.read_text())]
    assert written == [(1, BEST, pytest.approx(0.889, abs=1e-3)), (16, BEST, None)]


@pytest.mark.slow
def test_the_products_of_a_model_are_few_measurements_and_the_gpu_begins_at_once(folder):
    """All of Qwen3-8B's, as ``docs/tuning.md`` counts them; the configs are equally fast here, so every one is followed."""
    file = folder.path / "config.json"
    model = {"hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32, "num_key_value_heads": 8}
    file.write_text(json.dumps(model))
    fakes = {"FAKE_SPACE": "helion", "FAKE_PROCESSES": "8", "FAKE_COMPILE_SECONDS": "0.05"}
    _, code = folder.tune("--model", str(file), kernel="scaled_mm", **fakes)
    assert code == 0 and len(folder.rows_of("scaled_mm")) == 6 * 14
    lines = [line.split(" ", 1)[0] for line in folder.log.read_text().splitlines()]
    counts = Counter(lines)
    assert counts["compiled"] <= 1300 and counts["False"] <= 2200 and counts["True"] <= 1200, counts
    assert lines.index("False") < 30, "the GPU waited for what it need not wait for"


def test_no_fallback_wins_because_nothing_else_compiles(folder):
    shape = ("--shapes", "hidden_size=64", "--tokens", "16,1024,8192")
    said, code = folder.tune(*shape, kernel="plus_one_or_library", FAKE_COMPILE_ERROR="RuntimeError: no driver")
    reason = "has no config: none of 3 configs compiled and ran, 3 of them because of RuntimeError: no driver"
    assert code == 1 and said.count(reason) == 2
    # For 8192 tokens the kernel names no configs.
    assert [case["num_tokens"] for case in folder.rows_of("plus_one_or_library")] == [8192]
    # The next run tries the same configs again.
    assert folder.tune(*shape, kernel="plus_one_or_library")[1] == 0
    configs = {case["num_tokens"]: row["config"] for case, row in folder.rows_of("plus_one_or_library").items()}
    assert configs[16]["num_warps"] == configs[1024]["num_warps"] == 8 and configs[8192] == {"fallback": "library"}
