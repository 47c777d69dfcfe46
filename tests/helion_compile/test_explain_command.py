"""``python -m helion_compile explain``: from a config or a checkpoint folder to a report."""

import json

import fp8_models
import pytest

from helion_compile import __main__

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
    return __main__.main(["explain", "--device", "cpu", *map(str, arguments)])


def test_a_config(config, tmp_path, capsys):
    page, data = tmp_path / "report.html", tmp_path / "report.json"
    assert explain("--model", config, "--quantize", "fp8-row", "--html", page, "--json", data, "--verify") == 0
    text = capsys.readouterr().out
    assert "rms_norm_quant in model.layers.0" in text and "Total: 4 rms_norm_quant" in text and "verified q: " in text
    assert page.read_text().startswith("<!doctype html>")
    assert len(json.loads(data.read_text())["graphs"][0]["sites"]) >= 8


def test_a_folder_with_a_config_and_dynamic_sizes(config, capsys):
    assert explain("--model", config.parent, "--layers", 1, "--quantize", "fp8-row", "--dynamic") == 0
    text = capsys.readouterr().out
    assert "when traced, 2 and more" in text and "model.layers.1" not in text


def test_a_model_that_is_not_quantised(config, capsys):
    assert explain("--model", config) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "rms_norm_quant" not in text and "are the model's linears quantised" in text


def test_a_checkpoint(tmp_path, capsys):
    fp8_models.qwen3().save_pretrained(tmp_path)
    assert explain("--model", tmp_path, "--quantize", "fp8-row", "--layers", 1) == 0
    assert "Total: 2 rms_norm_quant" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "name a config.json, or the folder of a checkpoint"),
        ("{", "is no config of a Hugging Face model"),
        ('{"model_type": "no_such_model"}', "is no config of a Hugging Face model"),
        ("{}", "is no config of a Hugging Face model"),
    ],
)
def test_what_is_no_model(tmp_path, capsys, content, message):
    file = tmp_path / "config.json"
    if content is not None:
        file.write_text(content)
    assert explain("--model", file) == 1
    found = capsys.readouterr().err
    assert found.startswith("explain: ") and message in found and str(file) in found
