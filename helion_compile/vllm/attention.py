# SPDX-License-Identifier: Apache-2.0
"""The quantiser behind attention in one graph (``use_inductor_graph_partition``): vLLM's to fuse where it can, else ours.

vLLM's fusion makes attention itself write fp8, which saves more than ours can.  It is one of its passes that a config may
switch off, and takes only the kinds of scale that the attention backend says it can write.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.fx import Node

from helion_compile.passes.ir.values import VIEWS
from helion_compile.passes.patterns.custom_ops.op_call import get_op_name
from helion_compile.passes.semantics import Granularity, Quantize

__all__ = ["comes_from_attention", "vllm_fuses"]

_ATTENTION = frozenset({"vllm.unified_attention_with_output.default", "vllm.unified_mla_attention_with_output.default"})
_GROUPS = {128: "kFp8Dynamic128Sym", 64: "kFp8Dynamic64Sym"}


def comes_from_attention(x: Node | None) -> bool:
    """Whether ``x`` is what attention gives, seen through views."""
    while x is not None and x.target in VIEWS:
        x = x.args[0]
    return x is not None and get_op_name(x) in _ATTENTION


def vllm_fuses(quantize: Quantize, config: Any) -> bool:
    """Whether vLLM's own passes, as this ``VllmConfig`` sets them up, make one kernel of attention and this quantiser.

    True where that cannot be told: of a vLLM whose interfaces changed, or where no layer is known yet.
    """
    try:
        if not config.compilation_config.pass_config.fuse_attn_quant:
            return False
        key = _find_key(quantize)
        backends = list(_list_backends(config))
        return key is not None and (not backends or any(backend.fused_output_quant_supported(key) for backend in backends))
    except (AttributeError, ImportError):
        return True


def _find_key(quantize: Quantize) -> Any:
    """vLLM's name for the kind of scale, if its attention fusions have a pattern of it."""
    from helion_compile.compat import vllm_quant_keys

    if not quantize.dtype.is_floating_point or quantize.zero_point:
        return None
    if not quantize.dynamic:
        return vllm_quant_keys.kFp8StaticTensorSym
    if quantize.granularity is Granularity.GROUP and quantize.group in _GROUPS:
        return getattr(vllm_quant_keys, _GROUPS[quantize.group])
    return None


def _list_backends(config: Any) -> Iterator[Any]:
    """The implementations of the model's attention layers."""
    for layer in config.compilation_config.static_forward_context.values():
        if hasattr(implementation := getattr(layer, "impl", None), "fused_output_quant_supported"):
            yield implementation
