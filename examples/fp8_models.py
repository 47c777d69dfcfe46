# SPDX-License-Identifier: Apache-2.0
"""Real model classes, small enough for a laptop, with their linears quantised to fp8 per row.

The demo and the tests build their models here. It lies beside the demo because the demo has to run from a checkout
without the tests; pytest finds it through `pythonpath` in pyproject.toml.

Letters: hidden size K; the weight of a linear is [N, K].
"""

import functools
import warnings
from unittest import mock

import torch
import transformers
from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

TINY = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 512,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}


def llama(*, seed=0, **config):
    """A Llama of two layers and random weights; keywords go to `LlamaConfig`."""
    return random_model(transformers.LlamaConfig(**{**TINY, **config}), seed)


def qwen3(*, seed=0, **config):
    """A Qwen3 of two layers and random weights; keywords go to `Qwen3Config`."""
    return random_model(transformers.Qwen3Config(**{**TINY, **config}), seed)


def mistral(*, seed=0, **config):
    """A Mistral of two layers and random weights; keywords go to `MistralConfig`."""
    return random_model(transformers.MistralConfig(**{**TINY, **config}), seed)


def random_model(config, seed=0):
    """The causal language model of `config` in bf16, ready for inference, the same weights for the same seed.

    Norm weights are drawn around 1 instead of being 1: with ones, a norm that forgets its weight would go unnoticed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1 and name.endswith("norm.weight"):
                    parameter.normal_(mean=1.0, std=0.1)
    return for_inference(model)


def pretrained_model(path, **config):
    """The causal language model in the local checkpoint folder `path`, in bf16, ready for inference."""
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16, local_files_only=True, **config)
    return for_inference(model)


def for_inference(model):
    # A KV cache is Python state that Dynamo would have to follow; the chains under study do not depend on it.
    model.config.use_cache = False
    return model.eval().requires_grad_(False)


def quantize_fp8_per_row(model, *, lm_head=False):
    """Quantise the linears of `model` in place, weights now and activations at run time, and return it.

    Weights become fp8 e4m3 [N, K] with fp32 scales [N, 1]. `lm_head` stays in bf16 unless asked for, as in published
    fp8 checkpoints.
    """

    def chosen(module, name):
        return isinstance(module, torch.nn.Linear) and (lm_head or name != "lm_head")

    if model.device.type == "cpu":
        ensure_row_wise_scaled_mm_on_cpu()
    # torchao 0.18 refuses a CPU although its arithmetic runs there: the check is about speed.
    with mock.patch("torchao.quantization.quant_api._check_hardware_support"):
        quantize_(model, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()), filter_fn=chosen)
    return model


@functools.cache
def ensure_row_wise_scaled_mm_on_cpu():
    """Where `aten._scaled_mm` takes no row-wise scales on a CPU (torch 2.11; 2.13 does), give it a plain one for them.

    Stays for the life of the process, since compiled code calls the op later. Nothing happens where it works already.
    """
    a, b = (torch.zeros(16, 16, dtype=torch.float8_e4m3fn) for _ in range(2))
    try:
        torch._scaled_mm(a, b.t(), torch.ones(16, 1), torch.ones(1, 16), out_dtype=torch.bfloat16)
        return None
    except RuntimeError:
        pass

    def scaled_mm(a, b, scale_a, scale_b, bias=None, scale_result=None, out_dtype=None, use_fast_accum=False):
        result = (a.float() @ b.float()) * scale_a * scale_b
        if bias is not None:
            result = result + bias
        return result.to(out_dtype or a.dtype)

    def scaled_mm_out(*args, out, **kwargs):
        return out.copy_(scaled_mm(*args, **kwargs))

    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[\\s\\S]*Overriding a previously registered kernel")
        library.impl("_scaled_mm", scaled_mm, "CPU", allow_override=True)
        library.impl("_scaled_mm.out", scaled_mm_out, "CPU", allow_override=True)  # what Inductor's code calls
    return library  # the override lasts as long as this object, which the cache keeps


def dequantize_fp64(model):
    """Replace each quantised weight of `model` by its value in fp64, convert everything else to fp64, and return it.

    fp8 times fp32 scale is exact in fp64, so the result is the model that the quantised one approximates.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and hasattr(module.weight, "qdata"):
            weight = module.weight.qdata.double() * module.weight.scale.double()
            module.weight = torch.nn.Parameter(weight, requires_grad=False)
    return model.double()


def token_ids(model, *shape, seed=0, count=None):
    """Random token ids of `shape` for `model` and on its device; with `count`, a list of as many different ones."""
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(model.config.vocab_size, shape, generator=generator).to(model.device) for _ in range(count or 1)]
    return ids[0] if count is None else ids
