# SPDX-License-Identifier: Apache-2.0
"""Running each fused site against what it replaces, on real values, and judging the difference by a contract.

It reads records of ``passes`` alone; reports and the frontend may import it.
"""

from helion_compile.verify.compare import Compared
from helion_compile.verify.contract import Contract, contract_of
from helion_compile.verify.run import merge_worst, run_verified

__all__ = ["Compared", "Contract", "contract_of", "merge_worst", "run_verified"]
