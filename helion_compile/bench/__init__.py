"""Measurements: ``python -m helion_compile bench NAME``."""
