# SPDX-License-Identifier: Apache-2.0
"""Which configs the row-wise kernels take where no table has the case."""

import pytest

from helion_compile.configs.case import Case
from helion_compile.kernels.families.row_configs import adapt_row_config, choose_quantizer_config

NORM = Case(dtype="bf16", hidden_size=4096, num_tokens=64, residual=True)


@pytest.mark.parametrize(
    ("width", "warps", "adapted"),
    [
        (4096, 8, 8),
        (3072, 2, 2),  # as many registers hold it
        (8192, 8, 16),
        (14464, 2, 8),  # each thread has as much of a row: 64 elements
        (28672, 8, 32),
        (28672, 4, 32),
        (28672, 2, 16),  # 512 elements a thread with the warps of 8192, 128 in proportion: 64 at most
        (2048, 8, 4),
        (1024, 2, 1),
    ],
)
def test_a_row_of_another_width_has_as_much_a_thread(width, warps, adapted):
    config = {"block_sizes": [1, 1], "num_warps": warps}
    assert adapt_row_config(config, NORM, NORM.replace(hidden_size=width)) == {**config, "num_warps": adapted}


@pytest.mark.parametrize("facts", [{"static": True}, {"group": 128}], ids=["static", "group"])
def test_tiles_suit_every_width(facts):
    case, config = Case(hidden_size=4096, gated=True, **facts), {"block_sizes": [1, 8], "num_warps": 1}
    assert adapt_row_config(config, case, case.replace(hidden_size=28672)) == config


@pytest.mark.parametrize("facts", [{"static": True}, {"group": 128}], ids=["static", "group"])
def test_a_norm_before_the_quantiser_needs_the_row_whole(facts):
    config = {"block_sizes": [1, 1], "num_warps": 8}
    wide = adapt_row_config(config, NORM.replace(**facts), NORM.replace(hidden_size=8192, **facts))
    assert wide["num_warps"] == 16


@pytest.mark.parametrize(
    ("facts", "blocks", "warps"),
    [
        ({"hidden_size": 12288, "num_tokens": 1, "static": True}, [1, 256], 1),
        ({"hidden_size": 12288, "num_tokens": 16, "static": True}, [1, 1024], 4),
        ({"hidden_size": 12288, "num_tokens": 256, "static": True}, [1, 4096], 8),
        ({"hidden_size": 5120, "num_tokens": 1024, "static": True}, [4, 1024], 8),  # 1024 columns divide 5120
        ({"hidden_size": 12288, "num_tokens": 1, "group": 128}, [1, 2], 1),
        ({"hidden_size": 64, "num_tokens": 8192, "static": True}, [16, 64], 4),
    ],
)
def test_few_tokens_are_spread_over_many_programs(facts, blocks, warps):
    assert choose_quantizer_config(Case(**facts), 16) == {"block_sizes": blocks, "num_warps": warps}


def test_a_scale_for_each_row_needs_it_whole():
    config = choose_quantizer_config(Case(hidden_size=12288, num_tokens=1), 16)
    assert config == {"block_sizes": [1], "num_warps": 16, "reduction_loops": [None]}
