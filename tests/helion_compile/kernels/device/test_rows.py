# SPDX-License-Identifier: Apache-2.0
"""Which tensors the row-wise kernels take."""

import torch

from helion_compile.kernels.device.rows import check_rows


def rows_of(wide: int) -> torch.Tensor:
    """64 columns of [65536, wide], without its memory."""
    return torch.empty(65536, wide, dtype=torch.bfloat16, device="meta")[:, :64]


def test_a_slice_that_reaches_beyond_32_bit_offsets_is_refused():
    assert check_rows(x=rows_of(32000)) is None  # 2.097e9
    reason = check_rows(x=rows_of(57344))
    assert reason.startswith("x reaches 3758039104 elements into memory with 4194304 of its own")


def test_a_whole_tensor_of_that_size_is_taken():
    # Helion counts its elements and takes 64-bit offsets.
    assert check_rows(x=torch.empty(65536, 57344, dtype=torch.bfloat16, device="meta")) is None
