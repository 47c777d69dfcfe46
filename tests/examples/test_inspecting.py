# SPDX-License-Identifier: Apache-2.0
"""The examples of looking run, and say what they promise."""

import inspect_graphs
import why_was_it_not_fused

from tests.support.needs import row_wise_products


def test_why_was_it_not_fused(capsys):
    why_was_it_not_fused.main()
    first, *others = capsys.readouterr().out.split("--- ")[1:]
    assert first.startswith("quantize: fused") and "found" not in first
    assert len(others) == 3
    for text in others:
        assert ": not fused\n" in text and "near    matched " in text and "found   " in text and "fuses   " in text
    assert "found   x is scaled in bf16\nfuses   scaled in fp32" in others[0]
    assert "is also read by" in others[1] or "are also read by" in others[1]
    assert "the scale is taken from" in others[2]


@row_wise_products
def test_inspect_graphs(tmp_path, capsys):
    inspect_graphs.main(tmp_path)
    text = capsys.readouterr().out
    assert "run as a program: result 0: torch.bfloat16 [2, 16, 512], off the recorded one by up to 0\n" in text
    assert f"{'norm_quant':16} model.layers.0.self_attn.q_proj" in text and "q: " in text
    assert "in a trace: no kernel is called here" in text
    assert (tmp_path / "report.html").exists() and (tmp_path / "graph_1" / "before.py").exists()
