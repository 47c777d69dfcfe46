# SPDX-License-Identifier: Apache-2.0
"""What ``torch.compile(backend="helion")``, ``explain``, ``report``, ``debug`` and ``warm_up`` do.

The steps from a model that is compiled to a rewritten graph live here; the root's names, vLLM, ``bench`` and the command line
may import it.
"""
