"""Whole models of transformers, quantised by torchao: exact numbers of what is read and rewritten."""

import pytest
import stubs
import torch
from capture import Captured

from passes.fusion_pass import FusionPass

pytest.importorskip("torchao")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module", params=["Llama", "Qwen3"])
def model(request):
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quant_api, quantize_

    config = getattr(transformers, f"{request.param}Config")(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        vocab_size=512,
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{request.param}ForCausalLM")(config).to(torch.bfloat16).eval()
    with pytest.MonkeyPatch.context() as patch:
        # torchao refuses a machine without an fp8 GPU, but its aten form runs anywhere.
        patch.setattr(quant_api, "_check_hardware_support", lambda *args, **kwargs: None)
        quantize_(
            model,
            Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()),
            filter_fn=lambda module, name: isinstance(module, torch.nn.Linear) and name != "lm_head",
        )
    return model


def test_sites_of_two_layers(model):
    inputs = {"input_ids": torch.arange(8)[None], "use_cache": False}
    fusion_pass = FusionPass(stubs.ALL, strict=True)
    rewritten = Captured(model, fusion_pass, dynamic=False)
    assert torch.equal(rewritten(**inputs).logits, Captured(model, None, dynamic=False)(**inputs).logits)

    (record,) = fusion_pass.records
    assert not record.refusals
    found = [(site.fusion, site.merged, site.location.module) for site in record.sites]
    assert found == [
        *(
            ("norm_quantize", copies, f"model.layers.{layer}.{module}")
            for layer in (0, 1)
            for copies, module in ((3, "self_attn.q_proj"), (2, "mlp.gate_proj"))
        ),
        *(
            ("quantize", 1, f"model.layers.{layer}.{module}")
            for layer in (0, 1)
            for module in ("self_attn.o_proj", "mlp.down_proj")
        ),
    ]
    # 14 chains in all, and only the first norm has no addition in front.
    assert sum(site.merged for site in record.sites) == 14
    assert [("residual" in site.shapes) for site in record.sites[:4]] == [False, True, True, True]
    assert len(record.kept) == 14
    # The norm before lm_head, and the norms of queries and keys; the stubs have no fusion for silu(gate) * up and for RoPE.
    assert record.unclaimed == {"norm": 5 if "Qwen3" in type(model).__name__ else 1, "activation": 2, "rope": 4}
