# SPDX-License-Identifier: Apache-2.0
"""``explain --model``: a Hugging Face model of any task, from a config, a checkpoint folder or a name of the hub."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from helion_compile.cli.errors import CommandError, in_a_line
from helion_compile.cli.quantizing import quantize

__all__ = ["make_inputs", "make_model"]

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_VOCABULARY = 1024  # of a model made from its config: embedding and lm_head are not what a report is about
_LAYERS = ("num_hidden_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")
# The class for each task, and what transformers makes of a config for it; in the order in which they are tried.
_TASKS = {
    "AutoModelForSeq2SeqLM": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "AutoModelForImageTextToText": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "AutoModelForCausalLM": "MODEL_FOR_CAUSAL_LM_MAPPING",
    "AutoModelForMaskedLM": "MODEL_FOR_MASKED_LM_MAPPING",
    "AutoModelForImageClassification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
    "AutoModelForSequenceClassification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
    "AutoModelForTokenClassification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING",
    "AutoModel": "MODEL_MAPPING",
}
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def make_model(options: SimpleNamespace) -> torch.nn.Module:
    """The model that ``options`` of ``explain`` ask for, quantised, on its device.

    Raises:
        CommandError: there is no such model.
    """
    try:
        import transformers
    except ImportError:
        raise CommandError("a model is made by transformers, which is not installed: pip install transformers") from None
    folder = Path(options.model)
    weights = folder.is_dir() and any(file for name in _WEIGHTS for file in folder.glob(name))
    config = _read_config(options) if not weights else transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    make = _class_of(config, options.model)
    try:
        if weights:
            layers = {} if options.layers is None else {"num_hidden_layers": options.layers}
            model = make.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True, **layers)
        else:
            model = make.from_config(config, dtype=torch.bfloat16)
    except Exception as error:  # of transformers, about what the files say
        raise CommandError(
            f"transformers {transformers.__version__} makes no model of {options.model}: {in_a_line(error)}; "
            f"helion_compile.explain(model, *inputs) takes any module"
        ) from error
    model.config.get_text_config().use_cache = False  # a KV cache is state of Python that the chains do not depend on
    model.config.use_cache = False
    model = model.to(options.device).eval().requires_grad_(False)
    if options.quantize != "none":
        quantize(model, options.quantize)
    return model


def make_inputs(model: torch.nn.Module, options: SimpleNamespace) -> dict[str, torch.Tensor]:
    """Inputs of ``model`` by name: token ids of the shape that was asked for, or pictures.

    Raises:
        CommandError: it takes neither.
    """
    config = model.config
    main = getattr(model, "main_input_name", "input_ids")
    generator = torch.Generator().manual_seed(0)
    if main == "pixel_values":
        about = getattr(config, "vision_config", config)
        size = getattr(about, "image_size", 224)
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        shape = (options.shape[0], getattr(about, "num_channels", 3), height, width)
        inputs = {"pixel_values": torch.randn(shape, generator=generator, dtype=torch.bfloat16)}
    elif main == "input_ids":
        text = config.get_text_config()
        inputs = {"input_ids": torch.randint(text.vocab_size, tuple(options.shape), generator=generator)}
        if getattr(config, "is_encoder_decoder", False):
            inputs["decoder_input_ids"] = inputs["input_ids"]
    else:
        raise CommandError(
            f"the {type(model).__name__} of {options.model} takes {main}, for which this command has no values; "
            f"helion_compile.explain(model, *inputs) takes any module"
        )
    return {name: value.to(options.device) for name, value in inputs.items()}


def _read_config(options: SimpleNamespace) -> Any:
    import transformers

    file = Path(options.model)
    if not file.exists():
        config = _of_hub(options.model)
        content = config.to_dict()
    else:
        file = file / "config.json" if file.is_dir() else file
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            config = transformers.AutoConfig.for_model(**content)
        except Exception as error:  # besides OSError and ValueError, what transformers' own checks raise
            raise CommandError(
                f"{file} is no config of a Hugging Face model that transformers {transformers.__version__} knows: "
                f"{in_a_line(error)}"
            ) from None
    if content.get("quantization_config") and options.quantize == "none":
        print(
            f"explain: the quantization_config of {file} is for weights, which are random here, and is left out: name a "
            f"folder that has the weights, or choose with --quantize",
            file=sys.stderr,
        )
    _make_small(config, options.layers)
    return config


def _of_hub(name: str) -> Any:
    import transformers

    if not _NAME.fullmatch(name) or name.endswith((".json", ".bin", ".safetensors")):
        raise CommandError(f"there is no {name}; name a config.json, or the folder of a checkpoint, or a model of the hub")
    try:
        return transformers.AutoConfig.from_pretrained(name)
    except Exception as error:  # of the hub's client: offline, no such name, a licence to accept
        raise CommandError(
            f"there is no {name} here, and its config cannot be had from the hub: {in_a_line(error)}; name a config.json, or "
            f"the folder of a checkpoint"
        ) from None


def _make_small(config: Any, layers: int | None) -> None:
    """Keep the first layers, and a vocabulary that costs nothing; weights are random."""
    text = config.get_text_config()
    for each in (config, text):
        for name in _LAYERS:
            if isinstance(found := getattr(each, name, None), int):
                setattr(each, name, layers or min(2, found))
        if getattr(each, "vocab_size", None):
            each.vocab_size = min(each.vocab_size, _VOCABULARY)
        for name in ("bos_token_id", "eos_token_id", "quantization_config"):
            if getattr(each, name, None) is not None:
                setattr(each, name, None)
        if getattr(each, "pad_token_id", None) is not None:
            each.pad_token_id = 0 if getattr(config, "is_encoder_decoder", False) else None
        if getattr(each, "decoder_start_token_id", None) is not None:
            each.decoder_start_token_id = 0


def _class_of(config: Any, asked: str) -> Any:
    """The class of the task that the config names, or of the first task that has a model for it."""
    import transformers

    found = {}  # task -> the names of its models for this config
    for task, mapping in _TASKS.items():
        models = getattr(transformers, mapping, {}).get(type(config), ())
        if models:
            found[task] = [model.__name__ for model in (models if isinstance(models, tuple) else (models,))]
    for named in getattr(config, "architectures", None) or ():
        for task, names in found.items():
            if named in names:
                return getattr(transformers, task)
    if not getattr(config, "is_encoder_decoder", False):
        found.pop("AutoModelForSeq2SeqLM", None)
    for task in found:
        return getattr(transformers, task)
    raise CommandError(
        f"transformers {transformers.__version__} has no model for the {config.model_type} of {asked}; "
        f"helion_compile.explain(model, *inputs) takes any module"
    )
