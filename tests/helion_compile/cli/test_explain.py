# SPDX-License-Identifier: Apache-2.0
"""``python -m helion_compile explain``: from a config or a checkpoint folder to a report."""

import json
import re

import fp8_models
import pytest
import transformers

from helion_compile.cli.main import main

CONFIG = {
    "model_type": "qwen3",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 28,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 151936,
    "bos_token_id": 151643,
    "tie_word_embeddings": False,
}


@pytest.fixture(autouse=True, scope="module")
def scaled_mm():
    fp8_models.ensure_row_wise_scaled_mm_on_cpu()


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(CONFIG))
    return file


def explain(*arguments):
    return main(["explain", "--device", "cpu", *map(str, arguments)])


def test_a_config(config, tmp_path, capsys):
    page, data = tmp_path / "report.html", tmp_path / "report.json"
    assert explain("--model", config, "--quantize", "fp8-row", "--html", page, "--json", data, "--verify") == 0
    text = capsys.readouterr().out
    assert "norm_quant in model.layers.0" in text and "Total: 4 norm_quant" in text and "verified q: " in text
    assert page.read_text().startswith("<!doctype html>")
    assert len(json.loads(data.read_text())["graphs"][0]["sites"]) >= 8


def test_a_folder_with_a_config_and_dynamic_sizes(config, capsys):
    assert explain("--model", config.parent, "--layers", 1, "--quantize", "fp8-row", "--dynamic") == 0
    text = capsys.readouterr().out
    assert "when traced, 2 and more" in text and "model.layers.1" not in text


def test_a_model_that_is_not_quantised(config, capsys):
    assert explain("--model", config) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "norm_quant" not in text and "are the model's linears quantised" in text


def test_a_checkpoint(tmp_path, capsys):
    fp8_models.qwen3().save_pretrained(tmp_path)
    assert explain("--model", tmp_path, "--quantize", "fp8-row", "--layers", 1) == 0
    assert "Total: 2 norm_quant" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "name a config.json, or the folder of a checkpoint"),
        ("{", "is no config of a Hugging Face model"),
        ('{"model_type": "no_such_model"}', "is no config of a Hugging Face model"),
        ("{}", "is no config of a Hugging Face model"),
        ("[1]", "is no config of a Hugging Face model"),
        ('{"model_type": "qwen3", "hidden_size": "a"}', "'hidden_size' expected int, got str"),
        ('{"model_type": "wav2vec2"}', "takes input_values, for which this command has no values"),
    ],
)
def test_what_is_no_model(tmp_path, capsys, content, message):
    file = tmp_path / "config.json"
    if content is not None:
        file.write_text(content)
    assert explain("--model", file) == 1
    found = capsys.readouterr().err
    assert found.startswith("explain: ") and message in found and str(file) in found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--layers", 0), "'0' is no count; give 1 or more"),
        (("--shape", -1, 4), "'-1' is no count; give 1 or more"),
        (("--quantize", "fp4"), "'fp4' is not one of 'none', 'fp8-row'"),
    ],
)
def test_what_is_no_count_or_choice(config, capsys, arguments, message):
    with pytest.raises(SystemExit):
        explain("--model", config, *arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--html", "--json"])
def test_a_file_that_cannot_be_written_is_told_before_the_model_is_made(config, tmp_path, capsys, option):
    for file, found in ((tmp_path, "it is a folder"), (tmp_path / "no" / "file", "there is no folder")):
        with pytest.raises(SystemExit):
            explain("--model", config, option, file)
        out, err = capsys.readouterr()
        assert not out and f"Invalid value for '{option}': {file} cannot be written, {found}" in err


def test_a_device_that_is_not_there(config, capsys):
    assert explain("--model", config, "--device", "meta:banana") == 1
    assert "explain: --device meta:banana is none that torch" in capsys.readouterr().err


def test_a_model_that_cannot_be_run_so_is_told(config, capsys, monkeypatch):
    config.write_text(json.dumps({"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 1, "n_positions": 32}))
    assert explain("--model", config, "--shape", 1, 33) == 1
    found = capsys.readouterr().err
    assert "cannot be run on token ids of shape [1, 33], compiled or not: IndexError: index out of range" in found

    def fails(*args, **kwargs):
        raise RuntimeError("of ours")

    monkeypatch.setattr("helion_compile.frontend.explain.explain", fails)
    with pytest.raises(RuntimeError, match="of ours"):
        explain("--model", config, "--shape", 1, 8)


def test_a_quantisation_that_is_left_out_is_told(config, capsys):
    config.write_text(json.dumps(CONFIG | {"quantization_config": {"quant_method": "fp8"}}))
    assert explain("--model", config, "--layers", 1) == 0
    assert f"the quantization_config of {config} is for weights, which are random here" in capsys.readouterr().err


TASKS = {
    "T5ForConditionalGeneration": {"model_type": "t5", "d_model": 128, "d_ff": 256, "num_heads": 2, "d_kv": 64},
    "ViTForImageClassification": {
        "model_type": "vit", "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "image_size": 32
    },
    "BertForMaskedLM": {
        "model_type": "bert", "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2,
        "architectures": ["BertForMaskedLM"],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_models_of_any_task(tmp_path, capsys, name):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(TASKS[name]))
    assert explain("--model", file, "--layers", 1, "--quantize", "fp8-row", "--shape", 1, 8) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{name} on cpu; ") and re.search(r"Total: .*quant", text)


@pytest.mark.parametrize("scheme", ["fp8-static", "fp8-group", "fp8-block"])
def test_schemes_that_torchao_runs_on_few_gpus(config, capsys, scheme):
    assert explain("--model", config, "--layers", 1, "--quantize", scheme, "--verify") == 0
    text = capsys.readouterr().out
    assert re.search(r"Total: .*1 activation_quant", text) and "broken" not in text
    assert ("per group of 128" in text) is (scheme != "fp8-static")


def test_groups_that_do_not_fit(tmp_path, capsys):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(CONFIG | {"hidden_size": 192}))
    assert explain("--model", file, "--quantize", "fp8-block") == 1
    assert "groups of 128 do not fit a linear of 256 by 192; choose --quantize fp8-row" in capsys.readouterr().err


def test_a_quantised_model_that_cannot_be_run_is_told_to_choose_another_scheme(config, capsys, monkeypatch):
    def fails(self, *args, **kwargs):
        raise NotImplementedError("aten.expand")

    monkeypatch.setattr("transformers.Qwen3ForCausalLM.forward", fails)
    assert explain("--model", config, "--quantize", "fp8-row") == 1
    assert "--quantize fp8-row does not fit this model, choose another scheme or none" in capsys.readouterr().err


def test_as_on_a_gpu(config, capsys):
    assert explain("--model", config, "--layers", 1, "--quantize", "fp8-row", "--gpu", "h200") == 0
    assert "Qwen3ForCausalLM on cpu, as on NVIDIA H200; " in capsys.readouterr().out
    assert explain("--model", config, "--gpu", "h20000") == 1
    assert "--gpu h20000: no GPU is called 'h20000'" in capsys.readouterr().err


def test_a_name_of_the_hub(config, capsys, monkeypatch):
    def from_pretrained(name):
        if name != "Qwen/Qwen3-8B":
            raise OSError("We couldn't connect to 'https://huggingface.co'")
        return transformers.Qwen3Config(**{k: v for k, v in CONFIG.items() if k != "model_type"})

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", from_pretrained)
    assert explain("--model", "Qwen/Qwen3-8B", "--layers", 1) == 0
    assert "Graph 1 of 1" in capsys.readouterr().out
    assert explain("--model", "Qwen/Qwen3-80B") == 1
    found = capsys.readouterr().err
    assert "there is no Qwen/Qwen3-80B here, and its config cannot be had from the hub: OSError: We couldn't connect" in found


@pytest.mark.slow
def test_a_model_whose_language_model_is_a_part(tmp_path, capsys):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "gemma3", "text_config": CONFIG | {"model_type": "gemma3_text"}}))
    assert explain("--model", file, "--layers", 1, "--quantize", "fp8-row") == 0
    assert "norm_quant in model.language_model.layers.0" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("quantize", "total"), [("fp8-tensor", "Total: 2 norm_rope, 14 matmul kept"), ("int8", "2 quant,")])
def test_the_other_ways_to_quantise(config, capsys, quantize, total):
    assert explain("--model", config, "--quantize", quantize) == 0
    assert total in capsys.readouterr().out
