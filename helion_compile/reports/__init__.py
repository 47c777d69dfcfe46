"""The report: what was fused in a model, what was not, and why; as data, text, JSON and HTML."""

from helion_compile.reports.model import Config, Cost, FusedSite, GraphReport, Layer, Report

__all__ = ["Config", "Cost", "FusedSite", "GraphReport", "Layer", "Report"]
