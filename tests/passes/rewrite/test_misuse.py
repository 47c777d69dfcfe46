# SPDX-License-Identifier: Apache-2.0
"""What a pass and a fusion are made of, and what a fusion's functions return, given wrongly: a sentence each."""

import logging

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from helion_compile.passes import Fusion, FusionError, FusionPass, Norm, Refusal, RefusalKind
from tests.support import stubs

ODD = (None, 3, "x", b"x", [1], {1: 2}, object(), torch.ones(2))


def norm(x, w):
    h = x.float()
    return w * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def run(build=lambda chain, emit: {}, check=lambda chain: None):
    traced = make_fx(norm, tracing_mode="fake")(torch.ones(4, 64).bfloat16(), torch.ones(64).bfloat16())
    FusionPass([Fusion("odd", (Norm,), build, check)], strict=True)(traced.graph)


def product(chain, emit):
    return {(Norm, "out"): emit(torch.ops.aten.mul.Tensor, chain.inputs["x"], chain.inputs["weight"])}


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: type(odd).__name__)
def test_what_a_pass_is_made_of(odd):
    for make in (FusionPass, lambda odd: FusionPass([odd])):
        with pytest.raises(TypeError, match="FusionPass takes a list of Fusions, found"):
            make(odd)
    for option, right in {
        **dict.fromkeys(("strict", "keep_code", "keep_originals", "keep", "log"), ()),
        "identity": (str,),
        "reject": (dict,),
        "on_record": (type(None),),
        "on_graph": (type(None),),
    }.items():
        if not isinstance(odd, right):
            with pytest.raises(TypeError, match=rf"FusionPass\({option}=.*: expected "):
                FusionPass(stubs.ALL, **{option: odd})
    with pytest.raises(TypeError, match="FusionPass is called with a torch.fx.Graph"):
        FusionPass(stubs.ALL)(odd)
    FusionPass(stubs.ALL, log=logging.getLogger("mine"))


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: type(odd).__name__)
def test_what_a_fusion_is_made_of(odd):
    if not isinstance(odd, str):
        with pytest.raises(TypeError, match="a fusion is named by a text"):
            Fusion(odd, (Norm,), product)
    for chain in (odd, (odd,), (), Norm):
        with pytest.raises(TypeError, match=r"fusion 'odd': chain=.*where semantic ops belong"):
            Fusion("odd", chain, product)
    for more in ({"build": odd}, {"build": product, "check": odd}):
        with pytest.raises(TypeError, match=r"fusion 'odd': (build|check)=.*where a function belongs that takes \(chain"):
            Fusion("odd", (Norm,), **more)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: type(odd).__name__)
def test_what_a_fusion_returns(odd):
    if not isinstance(odd, dict):
        with pytest.raises(
            FusionError, match="in build of 'odd' at .*: build returned .*it returns nodes by what they replace"
        ):
            run(lambda chain, emit: odd)
    with pytest.raises(FusionError, match="build gave .* for Norm's 'out'; give a node that emit made"):
        run(lambda chain, emit: {(Norm, "out"): odd})
    if odd is not None:
        with pytest.raises(
            FusionError, match="in check of 'odd' at .*: check returned .*; it returns None, or what chain.refuse"
        ):
            run(product, lambda chain: odd)
    with pytest.raises(FusionError, match="emit was given .* to call; give an operator"):
        run(lambda chain, emit: emit(odd))
    with pytest.raises(FusionError, match="a chain is asked for a semantic op"):
        run(lambda chain, emit: chain[odd])
    with pytest.raises(FusionError, match="a refusal is of a RefusalKind"):
        run(product, lambda chain: chain.refuse(odd, "found", "remedy"))
    with pytest.raises(TypeError, match="a refusal is of what is at a node"):
        Refusal.of(RefusalKind.KERNEL, odd, "found", "remedy")
