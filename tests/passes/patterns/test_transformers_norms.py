# SPDX-License-Identifier: Apache-2.0
"""The norm classes of transformers: each is read as what it computes, or refused with a reason."""

from __future__ import annotations

import collections

import pytest
import torch

from helion_compile.passes.match.matched_graph import match_graph
from helion_compile.passes.semantics import Norm
from tests.support import interpret, norm_classes
from tests.support.capture import capture
from tests.support.checks import assert_near

pytest.importorskip("transformers")

# Modules with every body that a norm has in transformers 5.23, for the run that looks at a few.
SAMPLE = [
    "bamba.modeling_bamba",
    "cohere.modeling_cohere",
    "deberta.modeling_deberta",
    "deepseek_v4.modeling_deepseek_v4",
    "falcon_h1.modeling_falcon_h1",
    "gemma3.modeling_gemma3",
    "gemma3n.modeling_gemma3n",
    "gpt_oss.modeling_gpt_oss",
    "helium.modeling_helium",
    "kimi_linear.modeling_kimi_linear",
    "llama.modeling_llama",
    "llama4.modeling_llama4",
    "nanochat.modeling_nanochat",
    "qwen3_next.modeling_qwen3_next",
    "t5.modeling_t5",
]


class Values(torch.fx.Interpreter):
    """Runs a graph and keeps what every node was."""

    def __init__(self, captured):
        super().__init__(captured.modules[0], garbage_collect_values=False)
        with torch.no_grad():
            self.run(*captured.arguments)

    def __getitem__(self, node):
        return self.env[node]


def outcome(cls) -> str:
    """ "read", "refused", or "no norm" for a class that takes no root of anything; checks what it is read as."""
    module = norm_classes.module_of(cls)
    captured = capture(module, *norm_classes.inputs_of(module))
    matched = match_graph(captured.graph)
    values = Values(captured)
    norms = [match for match in matched.matches if isinstance(match.op, Norm)]  # a gate is an activation
    refusals = [refusal for refusal in matched.refusals if refusal.candidate == "norm"]
    for match in norms:
        promised = interpret.norm(match.op, **{name: values[node] for name, node in match.inputs.items()})
        for name, copies in match.outputs.items():
            for copy in copies:
                assert_near(values[copy].reshape(promised[name].shape), promised[name])
    if norms:
        return "read"
    assert all(str(refusal) and refusal.location.line for refusal in refusals)
    roots = [node for node in captured.graph.nodes if str(node.target).split(".")[-2:-1] in (["rsqrt"], ["sqrt"])]
    assert refusals or not roots, f"{cls.__name__} is neither read nor refused"
    return "refused" if refusals else "no norm"


def census(modules, *, rms: bool) -> collections.Counter:
    found: collections.Counter = collections.Counter()
    for cls in (cls for module in modules for cls in norm_classes.classes_of(module, rms=rms)):
        try:
            result = outcome(cls)
        except (TypeError, torch._dynamo.exc.TorchRuntimeError, torch._dynamo.exc.Unsupported) as error:
            # Norms over channels or of several heads take something else than [2, 8, K]; one asks for a package.
            result = "not traced"
            print(f"{cls.__name__}: not traced: {str(error).splitlines()[0]}")
        if result in ("refused", "no norm"):
            print(f"{cls.__name__}: {result}")
        found[result] += 1
    print(f"{'RMSNorm' if rms else 'LayerNorm'} classes of transformers: {dict(found)}")
    return found


def test_a_sample_of_the_classes():
    found = sum(
        (census([f"transformers.models.{name}" for name in SAMPLE], rms=rms) for rms in (True, False)),
        start=collections.Counter(),
    )
    assert found["read"] >= 19 and found["refused"] == found["no norm"] == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_rms_norm_class():
    found = census(norm_classes.model_modules(), rms=True)
    share = found["read"] / (sum(found.values()) - found["no norm"])
    print(f"{share:.1%} of {sum(found.values())} are read")
    assert sum(found.values()) >= 200 and share >= 0.95


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_layer_norm_class():
    found = census(norm_classes.model_modules(), rms=False)
    share = found["read"] / (found["read"] + found["refused"])
    print(f"{share:.1%} of {found['read'] + found['refused']} are read")
    assert found["read"] >= 25 and share >= 0.85
