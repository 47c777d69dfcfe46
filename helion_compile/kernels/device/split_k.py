# SPDX-License-Identifier: Apache-2.0
"""Adding up the slices of a product whose K dimension several programs share, within the launch and in a fixed order.

The programs of one tile draw tickets as they start.  All but the last send their partial sums through memory that is zero
before and after the launch: a word that is not zero has arrived, so nothing but the words themselves is waited for.  The
program with the last ticket collects them.  It waits only for programs that have begun, whatever order the GPU starts them in,
and adds slice 0, 1, … as if there were no split, so equal inputs give equal bits.  (Float atomics would not, and a flag beside
the data would cost a memory fence and another round trip to the L2.)

A partial sum is sent with its sign bit flipped, which no sum becomes zero by: -0.0 is sent as 0.0, and an int32 sum of 8-bit
products stays far from -2^31.

Each text is Triton, for ``hl.inline_triton``: Helion has no relaxed stores, volatile loads or waiting loops.  ``split`` is the
number of slices, a compile-time constant; with one slice nothing is left of them.  Their names begin with ``split_``, since
they stand among those that Helion gives, which keep their types.
"""

from __future__ import annotations

__all__ = ["COLLECT", "DRAW_TICKET", "IS_LAST", "SEND"]

# As a vector the ticket stays in a register until it is asked for; the wait for it ends after the product, not before.
DRAW_TICKET = """
split_lane = tl.arange(0, 256)
split_drawn = tl.zeros([256], tl.int32)
if {split} > 1:
    split_drawn = tl.atomic_add({tickets} + {tile} + split_lane * 0, 1, mask=split_lane == 0, sem="relaxed")
split_drawn
"""

# 1 in the program that has to collect.
IS_LAST = "(tl.max(tl.where(tl.arange(0, 256) == 0, {ticket}, 0)) == {split} - 1).to(tl.int32)"

SEND = """
if {split} > 1:
    split_place = {slices} + {slice} * ({n} * {m}) + ({rows}[:, None] * {m} + {columns}[None, :])
    split_inside = (({rows} < {n})[:, None] & ({columns} < {m})[None, :]).to(tl.int32)
    split_sent = ({part} + 0).to(tl.int32, bitcast=True) ^ -2147483648
    tl.inline_asm_elementwise(
        "{{ .reg .pred p; setp.ne.b32 p, $3, 0; @p st.relaxed.gpu.global.b32 [$1], $2; mov.b32 $0, 0; }}",
        "=r,l,r,r", [split_place.to(tl.int64), split_sent, split_inside], dtype=tl.int32, is_pure=False, pack=1)
0
"""

COLLECT = """
split_whole = {part}
if {split} > 1:
    split_number = tl.arange(0, {split})[:, None, None]
    split_words = ({slices} + ({rows}[:, None] * {m} + {columns}[None, :]))[None, :, :] + split_number * ({n} * {m})
    split_asked = (({rows} < {n})[:, None] & ({columns} < {m})[None, :])[None, :, :] & (split_number != {slice})
    split_bits = tl.load(split_words, mask=split_asked, other=1, volatile=True)
    while tl.max((split_bits == 0).to(tl.int32)) != 0:
        split_bits = tl.load(split_words, mask=split_asked, other=1, volatile=True)
    tl.store(split_words, tl.zeros_like(split_bits), mask=split_asked)
    tl.store({tickets} + {tile}, 0)
    split_theirs = (split_bits ^ -2147483648).to({part}.dtype, bitcast=True)
    split_whole = tl.sum(tl.where(split_number == {slice}, split_whole[None, :, :], split_theirs), 0)
split_whole
"""
