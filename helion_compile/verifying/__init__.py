"""Running each fused site against what it replaces, on real values, and judging the difference by a contract."""

from helion_compile.verifying.comparing import Compared
from helion_compile.verifying.contract import Contract, contract_of
from helion_compile.verifying.running import run_verified

__all__ = ["Compared", "Contract", "contract_of", "run_verified"]
