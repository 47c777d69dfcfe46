# SPDX-License-Identifier: Apache-2.0
"""The table of quantisers: the rows of every file that has some, in the order of docs/patterns.md."""

from tests.support.corpus.group_quantisers import GROUP_QUANTISERS
from tests.support.corpus.int8_quantisers import INT8_QUANTISERS
from tests.support.corpus.library_quantisers import OPAQUE_QUANTISERS
from tests.support.corpus.quantisers import FP8_QUANTISERS

__all__ = ["OPAQUE_QUANTISERS", "QUANTISERS"]

QUANTISERS = [*FP8_QUANTISERS, *GROUP_QUANTISERS, *INT8_QUANTISERS]
