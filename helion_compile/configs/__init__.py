# SPDX-License-Identifier: Apache-2.0
"""Which config a kernel runs with: cases, tables, their files and the look-up; the shipped tables lie beside it.

It knows no kernel and needs no torch; every room above may import it.
"""
