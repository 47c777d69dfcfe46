# SPDX-License-Identifier: Apache-2.0
"""Functions written as real models write them, each with the semantic op that it is.

Tests of every kind draw their functions from here, and so does the table of patterns.  ``kernel_norms`` and
``kernel_quantisers`` pair functions with the attributes that a kernel takes for them.  ``helion_compile.bench`` keeps
functions of its own: a package that is installed cannot import tests.
"""
