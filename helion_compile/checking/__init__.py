# SPDX-License-Identifier: Apache-2.0
"""``helion_compile.check``: whether a kernel and what its author states of it agree.  Imported by users alone."""
