# SPDX-License-Identifier: Apache-2.0
"""The parts of the demo that shorten a printed graph."""

import textwrap

import pytest
from graph_text import NODE, one_layer, outline

GRAPH = f"""
    # File: transformers/models/qwen3/modeling_qwen3.py:244, in model.layers.0.self_attn.q_proj
    reshape: "bf16[16, 256]" = torch.ops.aten.reshape.default(embedding, [-1, 256])
    helion_kernel = torch.ops.{NODE}reshape, arg3_1, None, kernel = 'norm_quant@8498');  reshape = None
    getitem: "f8e4m3fn[16, 256]" = helion_kernel[0]
    getitem_1: "f32[16, 1]" = helion_kernel[1];  helion_kernel = None
    view: "f8e4m3fn[2, 8, 256]" = torch.ops.aten.reshape.default(getitem, [2, 8, 256])
    view_1: "f8e4m3fn[16, 256]" = torch.ops.aten.reshape.default(view, [-1, 256]);  view = None
    permute: "f8e4m3fn[256, 128]" = torch.ops.aten.permute.default(arg4_1, [1, 0]);  arg4_1 = None
    _scaled_mm: "bf16[16, 128]" = torch.ops.aten._scaled_mm.default(view_1, permute, getitem_1);  view_1 = None

    # File: transformers/models/qwen3/modeling_qwen3.py:60, in model.layers.0.self_attn.q_norm
    float_1: "f32[16, 128]" = torch.ops.prims.convert_element_type.default(_scaled_mm, torch.float32)
    split = torch.ops.aten.split.Tensor(float_1, 64)
    first: "f32[16, 64]" = split[0]
"""


def test_an_outline_shows_kernels_and_matmuls_with_what_they_read():
    assert outline(GRAPH) == textwrap.indent(
        textwrap.dedent("""\
            # transformers/models/qwen3/modeling_qwen3.py:244  model.layers.0.self_attn.q_proj
            helion_kernel = helion_kernel(embedding, arg3_1, None, kernel = 'norm_quant@8498')
            getitem: "f8e4m3fn[16, 256]" = helion_kernel[0]
            getitem_1: "f32[16, 1]" = helion_kernel[1]
            _scaled_mm: "bf16[16, 128]" = aten._scaled_mm.default(getitem, arg4_1, getitem_1)
            # … 3 more operations"""),
        "    ",
    )


@pytest.mark.parametrize("width", [60, 80, 160])
def test_an_outline_keeps_to_its_width(width):
    assert max(map(len, outline(GRAPH, width).splitlines())) <= width


@pytest.fixture
def cut():
    return lambda lines, layers: one_layer("\n".join(lines).replace("KERNEL", NODE), layers).replace(NODE, "KERNEL")


def test_one_layer_is_cut_between_two_kernels(cut):
    graph = ["embedding", "KERNELa)", "matmul", "KERNELb)", "matmul", "KERNELa)", "matmul", "KERNELb)", "head"]
    assert cut(graph, 2).split("\n") == ["KERNELa)", "matmul", "KERNELb)", "matmul"]
    assert cut(graph, 1).split("\n") == graph[1:]


def test_one_layer_begins_with_its_source_line():
    assert one_layer("    x = f(y)\n" + GRAPH, 1) == GRAPH.strip("\n")


def test_a_graph_without_kernels_is_shown_whole(cut):
    assert cut(["embedding", "head"], 2) == "embedding\nhead"
