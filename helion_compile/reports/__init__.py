# SPDX-License-Identifier: Apache-2.0
"""The report: what was fused in a model, what was not, and why; as data, text, JSON and HTML.

What reports say and how they are kept lives here; the frontend, vLLM and the command line may import it.
"""

from helion_compile.reports.model import Config, Cost, FusedSite, GraphReport, Layer
from helion_compile.reports.report import Report

__all__ = ["Config", "Cost", "FusedSite", "GraphReport", "Layer", "Report"]
