# SPDX-License-Identifier: Apache-2.0
"""Measurements: ``python -m helion_compile bench NAME``, one a file.

What measures lives here, and nothing may import it but the command line.
"""
