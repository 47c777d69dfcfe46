# SPDX-License-Identifier: Apache-2.0
import copy

import fp8_models
import pytest
import torch
from measure import relative_error

BUILDERS = [fp8_models.llama, fp8_models.qwen3, fp8_models.mistral]


def linears(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}


@pytest.mark.parametrize("build", BUILDERS)
def test_same_seed_same_weights(build):
    one, same, other = (dict(build(seed=seed).named_parameters()) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_building_a_model_leaves_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fp8_models.llama()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("build", BUILDERS)
def test_every_linear_is_quantised_but_the_head(build):
    found = linears(fp8_models.quantize_fp8_per_row(build()))
    assert found.pop("lm_head").weight.dtype == torch.bfloat16
    assert len(found) == 14
    for linear in found.values():
        assert linear.weight.qdata.dtype == torch.float8_e4m3fn
        assert linear.weight.scale.shape == (linear.out_features, 1)


def test_the_head_is_quantised_when_asked_for():
    model = fp8_models.quantize_fp8_per_row(fp8_models.llama(), lm_head=True)
    assert hasattr(model.lm_head.weight, "qdata")


def test_the_fp64_model_has_the_quantised_weights_and_not_the_original_ones():
    original = fp8_models.llama()
    quantised = fp8_models.quantize_fp8_per_row(copy.deepcopy(original))
    exact = fp8_models.dequantize_fp64(copy.deepcopy(quantised))
    for name, linear in linears(quantised).items():
        weight = linears(exact)[name].weight
        assert weight.dtype == torch.float64
        if name != "lm_head":
            assert relative_error(linear.weight.dequantize(), weight) < 2**-8
            assert 0.01 < relative_error(linears(original)[name].weight, weight) < 0.04
    ids = fp8_models.token_ids(quantised, 2, 8)
    assert 0.005 < relative_error(quantised(ids).logits, exact(ids).logits) < 0.1


def test_a_checkpoint_folder_gives_the_saved_model(tmp_path):
    saved = fp8_models.qwen3(seed=3)
    saved.save_pretrained(tmp_path)
    loaded = fp8_models.pretrained_model(tmp_path)
    ids = fp8_models.token_ids(saved, 1, 4)
    assert torch.equal(loaded(ids).logits, saved(ids).logits)
    assert len(fp8_models.pretrained_model(tmp_path, num_hidden_layers=1).model.layers) == 1


def test_token_ids_differ_between_draws_and_not_between_calls():
    model = fp8_models.llama()
    first, second = fp8_models.token_ids(model, 2, 8, count=2)
    assert first.shape == (2, 8)
    assert not torch.equal(first, second)
    assert torch.equal(fp8_models.token_ids(model, 2, 8), first)


def test_row_wise_scaled_mm_runs_on_a_cpu():
    fp8_models.ensure_row_wise_scaled_mm_on_cpu()
    a, b = (torch.randn(32, 16).to(torch.float8_e4m3fn) for _ in range(2))
    scale_a, scale_b = torch.rand(32, 1), torch.rand(1, 32)
    result = torch._scaled_mm(a, b.t(), scale_a, scale_b, out_dtype=torch.bfloat16)
    assert result.dtype == torch.bfloat16
    assert relative_error(result, (a.double() * scale_a) @ (b.double().t() * scale_b)) < 2**-8
