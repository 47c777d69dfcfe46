# SPDX-License-Identifier: Apache-2.0
"""Names of GPUs: as files are named after them, how alike two are, and the GPU of this machine."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helion_compile.configs.gpu import name_similarity, slug
from helion_compile.configs.table import Gpu


@given(st.text(max_size=150))
@settings(max_examples=300)
def test_a_gpu_name_never_leaves_the_folder(name):
    try:
        text = slug(name)
    except ValueError:
        return
    assert text and set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789_") and len(text) <= 100


def test_likeness_counts_leading_words():
    assert name_similarity("nvidia_h100_pcie", "nvidia_h100_80gb") == 2
    assert name_similarity("nvidia_h100", "nvidia_h100_80gb") == 2
    assert name_similarity("nvidia_h200", "nvidia_h200") == 2
    assert name_similarity("amd_mi300x", "nvidia_h200") == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_the_current_gpu_is_a_sentence_where_there_is_none():
    with pytest.raises(RuntimeError, match='torch finds none: name one, as in Gpu\\("NVIDIA H200", \\(9, 0\\)\\)'):
        Gpu.current()
