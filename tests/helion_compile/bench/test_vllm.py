# SPDX-License-Identifier: Apache-2.0
"""``bench vllm`` without a GPU: its model, its weights, what it starts, and what it says of results."""

import io
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from helion_compile.bench import vllm, vllm_run, vllm_step

SPEC = {"hidden": 4096, "intermediate": 12288, "layers": 36}


def said(tell, *arguments):
    console = Console(width=200, record=True, file=io.StringIO())
    tell(console, *arguments)
    return console.export_text()


def row(variant, *, ms=None, logits=None, kernels=(), start="cold", init=10.0, compiled=0):
    return {
        "variant": variant,
        "start": start,
        "init_s": init,
        "ms": ms or {},
        "logits": logits,
        "kernels": list(kernels),
        "compiled_while_serving": compiled,
        "said": [],
    }


@pytest.mark.parametrize("scheme", ["token", "tensor", "block"])
def test_each_scheme_has_a_model(scheme):
    config = vllm_run.model_config(SPEC | {"scheme": scheme})
    assert json.loads(json.dumps(config)) == config
    quantization = config["quantization_config"]
    if scheme == "block":
        assert quantization["weight_block_size"] == [128, 128]
    else:
        group = quantization["config_groups"]["group_0"]
        assert group["input_activations"]["dynamic"] is (scheme == "token")
        assert group["weights"]["strategy"] == {"token": "channel", "tensor": "tensor"}[scheme]


def test_weights_are_the_same_in_every_process_and_of_useful_size():
    def model():
        made = torch.nn.Module()
        made.norm = torch.nn.Parameter(torch.zeros(64))
        made.weight = torch.nn.Parameter(torch.zeros(256, 64).to(torch.float8_e4m3fn), requires_grad=False)
        made.weight_scale = torch.nn.Parameter(torch.zeros(256, 1))
        made.input_scale = torch.nn.Parameter(torch.zeros(()))
        vllm_run._fill_weights(SimpleNamespace(get_model=lambda: made))
        return {name: parameter.float() for name, parameter in made.named_parameters()}

    one, other = model(), model()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert 0.7 < one["norm"].mean() < 1.3 and 50 < one["weight"].std() < 80
    assert one["weight_scale"].unique().tolist() == [2.0**-12] and one["input_scale"].item() == 2.0**-6


def test_logits_that_are_kept_are_those_of_the_model():
    model = SimpleNamespace(compute_logits=lambda hidden: hidden.to(torch.bfloat16))
    kept, compute = [], model.compute_logits
    worker = SimpleNamespace(get_model=lambda: model)
    vllm_run._keep_logits(worker, kept)
    given = model.compute_logits(torch.ones(2, 3))
    assert given.dtype == torch.bfloat16 and kept[0].dtype == torch.float32 and kept[0].tolist() == [[1.0] * 3] * 2
    vllm_run._keep_no_more(worker)
    assert model.compute_logits is compute


def test_no_two_prompts_of_a_run_begin_alike_and_all_are_the_same_in_every_process():
    timed = [(*vllm_run.work_of(work)[:2], repeat) for work in vllm.WORK for repeat in range(6)]
    prompts = [ids for batch, prompt, repeat in [*timed, (4, 64, 0)] for ids in vllm_run._prompts(batch, prompt, repeat)]
    assert len({tuple(ids[:16]) for ids in prompts}) == len(prompts), "vLLM's cache of beginnings has blocks of 16"
    assert all(5 <= token < 1005 for ids in prompts for token in ids) and len(prompts[-1]) == 64
    assert vllm_run._prompts(1, 4, 0) == [[238, 70, 250, 640]]


def test_work():
    assert vllm_run.work_of("16x128+64") == (16, 128, 64)
    assert [vllm_run.work_of(bad) for bad in ("16", "16x128", "0x1+1", "1x1+0", "x+", "1x1+1 ")] == [None] * 6


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ("--work 16x128", "'16x128' is no work such as 1x128+64"),
        ("--repeats 0", "'0' is no count"),
        ("--keep .", ". is there and not empty, and a cold start needs empty caches"),
    ],
)
def test_what_cannot_be_run_is_said_at_once(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cache-token-ours-0").mkdir()
    with pytest.raises(SystemExit):
        vllm.main(arguments.split())
    assert sentence in capsys.readouterr().err


def test_a_run_that_fails_leaves_the_others_in_the_file(monkeypatch, tmp_path):
    def start(spec, place, cache):
        if spec["variant"] == "ours":
            raise SystemExit("bench vllm: token ours ended with 1")
        return row(spec["variant"], ms={"a": 1.0})

    monkeypatch.setattr(vllm, "_one", start)
    monkeypatch.setattr(vllm, "require_gpu", lambda command: None)
    monkeypatch.setattr(vllm, "machine", lambda: {"gpu": "none"})
    with pytest.raises(SystemExit, match="token ours ended with 1"):
        vllm.main(["--schemes", "token", "--json", str(tmp_path / "runs.json")])
    found = json.loads((tmp_path / "runs.json").read_text())
    assert found["machine"] == {"gpu": "none"} and [each["variant"] for each in found["runs"]] == ["default"]


def test_a_warm_start_has_the_model_where_the_cold_one_had_it(monkeypatch, tmp_path):
    models = []

    def run(command, env, stdout, stderr):
        spec = json.loads(Path(command[-1]).read_text())
        models.append(spec["model"])
        Path(spec["result"]).write_text("{}")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(vllm.subprocess, "run", run)
    for start in ("cold", "warm"):
        vllm._one({"variant": "default", "scheme": "token"}, tmp_path / f"token-default-0-{start}", tmp_path / "cache")
    assert models == [str(tmp_path / "cache" / "model")] * 2


@pytest.mark.parametrize(("distance", "verdict"), [(0.01, "ours is no farther from"), (0.5, "ours is FARTHER from")])
def test_logits_are_compared_with_how_far_two_of_vllms_own_ways_are_apart(distance, verdict):
    base = torch.eye(4)
    rows = [
        row("default", logits=base),
        row("eager", logits=base * 1.1),
        row("ours", logits=base * (1 + distance)),
    ]
    text = said(vllm._tell_logits, rows)
    assert verdict in text and "logits of eager: 0.10000 of the norm from default's; 100.0% of the first tokens" in text
    assert f"logits of ours: {distance:.5f} of the norm" in text


def test_times_are_medians_beside_vllms():
    rows = [row("default", ms={"1x128+64": ms}) for ms in (300.0, 310.0, 290.0)]
    rows += [row("ours", ms={"1x128+64": 240.0}, compiled=3), row("ours", start="warm", init=5.0)]
    text = said(vllm._tell, "token", rows)
    assert "300.0 (290.0-310.0)" in text and "1.250" in text and "init, warm, s" in text
    assert "ours: 3 compilations while serving" in text


@pytest.mark.parametrize(
    ("kernel", "role"),
    [
        ("triton_red_fused__to_copy_add_mean_mul_3", "between GEMMs"),
        ("_helion_norm_quant", "between GEMMs"),
        ("void vllm::act_and_mul_kernel<c10::BFloat16, &vllm::silu_kernel>", "between GEMMs"),
        ("void vllm::silu_and_mul_per_block_quant_kernel<c10::BFloat16>", "between GEMMs"),
        ("void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90>>", "attention and cache"),
        ("void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16>", "attention and cache"),
        ("void cutlass::device_kernel<cutlass::gemm::kernel::GemmUniversal>", "GEMMs"),
        ("nvjet_tst_64x8_64x16_4x2_h_bz_TNT", "GEMMs"),
        ("Memcpy DtoD (Device -> Device)", "the rest"),
    ],
)
def test_roles_of_kernels(kernel, role):
    assert vllm_step.role_of(kernel) == role


def test_the_limit_of_a_step_is_what_has_to_be_read():
    least = vllm_step.limits(SPEC, 1, 4.3e12)
    assert least["GEMMs"] == pytest.approx(1906, rel=0.01), "1.9 ms to read the weights"
    many = vllm_step.limits(SPEC, 64, 4.3e12)
    assert many["GEMMs"] == least["GEMMs"]
    assert many["between GEMMs"] == pytest.approx(64 * least["between GEMMs"])


def test_a_step_is_told_by_role_beside_its_limit():
    kernels = {"default": [("triton_a", 8.0, 20.0), ("cutlass", 4.0, 100.0)], "ours": [("_helion_a", 4.0, 9.0)]}
    table = vllm_step.roles_table("step", kernels, {"GEMMs": 50.0, "between GEMMs": 5.0})
    text = said(lambda console: console.print(table))
    cells = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in text.splitlines() if line.startswith("│")}
    assert [cell.strip() for cell in cells["between GEMMs"]] == ["20 (8)", "9 (4)", "5"]
    assert [cell.strip() for cell in cells["the rest"]] == ["0 (0)", "0 (0)", ""]
    assert [cell.strip() for cell in cells["all"]] == ["120 (12)", "9 (4)", "55"]


def test_a_step_is_what_sixteen_steps_have_more_than_eight(monkeypatch):
    runs = iter([0, 9, 0, 17])  # a run that warms up before each that is recorded

    class Recorded:
        def __init__(self, **_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def events(self):
            device = SimpleNamespace(name="CUDA")
            prefill = [SimpleNamespace(name="prefill", device_type=device, device_time_total=1000.0)]
            steps = [SimpleNamespace(name="step", device_type=device, device_time_total=3.0)] * 2 * (self.new - 1)
            host = [SimpleNamespace(name="host", device_type=SimpleNamespace(name="CPU"), device_time_total=9.0)]
            return prefill + steps + host

    def generate(llm, prompts, new):
        next(runs)
        Recorded.new = new

    monkeypatch.setattr(vllm_run, "_generate", generate)
    monkeypatch.setattr("torch.profiler.profile", Recorded)
    assert vllm_run._kernels_of_a_step(None, 16) == [("step", 2.0, 6.0)]


def test_each_process_has_caches_of_its_own_and_a_warm_one_those_of_a_cold_one(monkeypatch, tmp_path):
    places = Counter()

    def start(spec, place, cache):
        places[cache.name] += 1
        work = {work: 1.0 for work in spec["work"]}
        return row(spec["variant"], ms=work) | {"said": []}

    monkeypatch.setattr(vllm, "_one", start)
    options = SimpleNamespace(
        **SPEC, rounds=2, variants=["default", "ours"], warm=True, logits=True, repeats=1, profile=None, options={}, work=["a"]
    )
    rows = vllm._measure(options, "token", tmp_path, Console(file=io.StringIO()))
    cold = {f"cache-token-{variant}-{number}": 1 for variant in ("default", "ours") for number in (0, 1)}
    again = {"cache-token-default-0": 2, "cache-token-ours-0": 2, "cache-token-eager-0": 1}
    assert places == cold | again
    order = [each["variant"] for each in rows if each["ms"]]
    assert order == ["default", "ours"] * 2, "in turn"
