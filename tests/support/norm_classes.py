# SPDX-License-Identifier: Apache-2.0
"""The norm classes of the installed transformers, each as a module that can be traced."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing

import torch

__all__ = ["K", "classes_of", "inputs_of", "model_modules", "module_of"]

K = 64
# What constructors call the hidden size, and what else they need.
_SIZES = ("hidden_size", "dim", "num_features", "normalized_shape", "dim_norm", "c_in", "size")
_OTHERS = {"group_size": 32, "eps": 1e-6}


def model_modules() -> list[str]:
    """The names of all transformers.models.*.modeling_*."""
    import transformers.models

    entries = pkgutil.walk_packages(transformers.models.__path__, "transformers.models.")
    return [entry.name for entry in entries if entry.name.rpartition(".")[2].startswith("modeling_")]


def classes_of(module: str, *, rms: bool) -> list[type[torch.nn.Module]]:
    """The module classes of its own in a module that are called RMSNorm something, or something LayerNorm.

    Empty when it needs a package that is not installed.  A StableLayerNorm is a whole layer of an encoder.
    """
    try:
        namespace = vars(importlib.import_module(module))
    except ImportError:
        return []
    found = []
    for name, value in namespace.items():
        if inspect.isclass(value) and value.__module__ == module and issubclass(value, torch.nn.Module):
            plain = name.lower().replace("_", "")
            if "rmsnorm" in plain if rms else plain.endswith("layernorm") and not plain.endswith("stablelayernorm"):
                found.append(value)
    return found


def module_of(cls: type[torch.nn.Module]) -> torch.nn.Module:
    """An instance in bf16 with random weights.

    Raises:
        TypeError: it takes arguments that have no obvious value, or of another type.
    """
    given = {}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name in _SIZES:
            given[name] = K
        elif name == "config":
            given[name] = (typing.get_type_hints(cls.__init__).get("config") or _config_class(cls))(hidden_size=K)
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD and issubclass(cls, torch.nn.LayerNorm) and not given:
            given["normalized_shape"] = K
        elif name in _OTHERS and parameter.default is inspect.Parameter.empty:
            given[name] = _OTHERS[name]
    torch.manual_seed(0)
    try:
        module = cls(**given).eval()
    except AttributeError as error:
        raise TypeError(f"{cls.__name__} takes another config") from error
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module.to(torch.bfloat16)


def inputs_of(module: torch.nn.Module) -> list[torch.Tensor]:
    """bf16 [2, 8, K] for every argument of ``forward`` that has no default, or is a gate."""
    generator = torch.Generator().manual_seed(1)
    parameters = inspect.signature(module.forward).parameters.items()
    names = [name for name, value in parameters if value.default is inspect.Parameter.empty or name == "gate"]
    return [torch.randn(2, 8, K, generator=generator).to(torch.bfloat16) for _ in names]


def _config_class(cls: type[torch.nn.Module]) -> type:
    """The config class that the module of ``cls`` imports, that of the text part if there are several."""
    namespace = vars(importlib.import_module(cls.__module__))
    names = [name for name in namespace if name.endswith("Config") and not name.startswith("PreTrained")]
    return namespace[min(names, key=lambda name: (not name.endswith("TextConfig"), name))]
