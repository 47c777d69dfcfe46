# SPDX-License-Identifier: Apache-2.0
"""``python -m helion_compile tune``: the config tables of this GPU, made in minutes.

The search for configs lives here, and nothing may import it but the command line and ``bench``.
"""
