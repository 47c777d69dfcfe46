# SPDX-License-Identifier: Apache-2.0
"""vLLM's custom ops without vLLM: their schemas, calls of them, and recorded graphs."""
