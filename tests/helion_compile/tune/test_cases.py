# SPDX-License-Identifier: Apache-2.0
"""Which cases a model's config.json, shapes by hand and token counts give."""

import json

import pytest

from helion_compile.configs.case import Case
from helion_compile.definitions import registry
from helion_compile.definitions.names import BUILT_IN
from helion_compile.kernels import modulated_norm_quant, norm_quant, norm_rope, quant, rope, scaled_mm
from helion_compile.tune.cases import Layer, TuneError, cases_of, read_model, read_shapes, read_tokens

QWEN3_8B = {"hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32, "head_dim": 128}


def model(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps(fields))
    return file


def test_a_model_gives_the_shapes_of_its_layers(tmp_path):
    layer = read_model(model(tmp_path, **QWEN3_8B))
    assert layer == Layer(4096, 12288, attention_size=4096, head_dim=128, key_value_heads=32) == read_model(tmp_path)
    norms = cases_of(norm_quant, [layer], [], (1, 16), "bf16")
    assert norms == sorted(
        Case(dtype="bf16", hidden_size=4096, num_tokens=m, residual=r) for m in (1, 16) for r in (False, True)
    )
    quants = cases_of(quant, [layer, layer], [], (16,), "bf16")
    assert [case["hidden_size"] for case in quants] == [4096, 12288]


def test_products_are_tuned_merged_and_apart(tmp_path):
    products = cases_of(scaled_mm, [read_model(model(tmp_path, **QWEN3_8B, num_key_value_heads=8))], [], (16,), "bf16")
    q, k, qkv, gate, gate_up = 4096, 1024, 6144, 12288, 24576
    assert {(case["k"], case["n"]) for case in products} == {*((4096, n) for n in (q, k, qkv, gate, gate_up)), (12288, 4096)}


def test_heads_may_be_wider_than_the_model_or_unsaid(tmp_path):
    assert read_model(model(tmp_path, **{**QWEN3_8B, "hidden_size": 5120, "num_attention_heads": 64})).attention_size == 8192
    assert read_model(model(tmp_path, hidden_size=4096, intermediate_size=1, num_attention_heads=32)).attention_size == 4096
    assert read_model(model(tmp_path, vision={}, text_config=QWEN3_8B)).intermediate_size == 12288


def test_a_diffusion_transformer_has_its_width_by_its_heads(tmp_path):
    flux = read_model(model(tmp_path, num_attention_heads=24, attention_head_dim=128, in_channels=64))
    assert flux == Layer(3072, 12288, attention_size=3072, head_dim=128, key_value_heads=24)
    wan = read_model(model(tmp_path, num_attention_heads=40, attention_head_dim=128, ffn_dim=13824))
    assert (wan.hidden_size, wan.intermediate_size) == (5120, 13824)
    norms = cases_of(modulated_norm_quant, [flux], [], (4096,), "bf16")
    assert [(case["hidden_size"], case["kind"], case["residual"]) for case in norms] == [
        (3072, "layer", False),
        (3072, "layer", True),
    ]


@pytest.mark.parametrize("content", ["{", "[" * 100_000, "[]", "{}", '{"hidden_size": "4096"}', '{"hidden_size": 4096}'])
def test_a_file_that_is_no_model_is_one_sentence(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(TuneError, match="config.json"):
        read_model(tmp_path)
    with pytest.raises(TuneError, match="absent"):
        read_model(tmp_path / "absent")


def test_tokens():
    assert read_tokens("1,2,4,…,64") == (1, 2, 4, 8, 16, 32, 64)
    assert read_tokens("1,...,100") == (1, 2, 4, 8, 16, 32, 64, 100)
    assert read_tokens("16, 1,16") == (1, 16)
    for bad in ("", "0", "-1", "1,x", "1,…", "1.5"):
        with pytest.raises(TuneError, match="--tokens"):
            read_tokens(bad)


def test_shapes_by_hand_must_be_the_key_fields_of_the_kernel():
    shapes = [read_shapes("hidden_size=4096,residual=true")]
    assert cases_of(norm_quant, [], shapes, (8,), "bf16") == [
        Case(dtype="bf16", hidden_size=4096, num_tokens=8, residual=True)
    ]
    with pytest.raises(TuneError, match="residual"):
        cases_of(norm_quant, [], [{"hidden_size": 4096}], (8,), "bf16")
    with pytest.raises(TuneError, match="colour"):
        cases_of(quant, [], [{"hidden_size": 4096, "colour": "red"}], (8,), "bf16")
    for bad in ("4096", "hidden_size=", "=1"):
        with pytest.raises(TuneError, match="--shapes"):
            read_shapes(bad)
    for odd in ("[" * 100_000, "[]", "1e999", "NaN", "9" * 400):
        with pytest.raises(TuneError, match="--shapes names no case"):
            cases_of(quant, [], [read_shapes(f"hidden_size={odd}")], (8,), "bf16")


def test_every_shipped_kernel_can_be_tuned_for_every_dtype():
    shipped = [kernel for kernel in registry.list_kernels() if kernel.name.startswith(f"{BUILT_IN}::")]
    tunable = [kernel for kernel in shipped if kernel.tuning.shapes is not None]
    assert len(tunable) >= 6
    for kernel in tunable:
        for dtype in ("bf16", "fp16", "fp32"):
            assert cases_of(kernel, [Layer(64, 128, 64, head_dim=16, key_value_heads=2)], [], (1, 3), dtype)


def test_heads_of_queries_and_of_keys(tmp_path):
    layer = read_model(model(tmp_path, **QWEN3_8B, num_key_value_heads=8))
    assert [case["num_heads"] for case in cases_of(norm_rope, [layer], [], (16,), "bf16")] == [8, 32]
    assert cases_of(rope, [Layer(64, 128, 64)], [], (1,), "bf16") == []
