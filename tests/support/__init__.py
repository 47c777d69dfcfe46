# SPDX-License-Identifier: Apache-2.0
"""What several test files need.  Tests import it as ``tests.support``; no test lives here."""

from pathlib import Path

__all__ = ["ROOT"]

ROOT = Path(__file__).resolve().parents[2]  # of the checkout
