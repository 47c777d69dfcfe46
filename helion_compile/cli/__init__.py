# SPDX-License-Identifier: Apache-2.0
"""``python -m helion_compile COMMAND``.

The commands that are no benchmark and no tuner live here, and what all commands have in common; ``bench`` and ``tune`` may
import that, and nothing below.
"""
